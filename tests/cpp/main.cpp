// gnfast_tests [PART]: runs all tests, or those whose name begins with PART; exits with 1 if one fails or none is there.
#include <cstdio>
#include <exception>

#include "check.hpp"

int main(int argc, char** argv) {
    const std::string part = argc > 1 ? std::string(argv[1]) + ":" : "";
    int run = 0, failed = 0;
    for (const gnfast::test::Test& test : gnfast::test::all()) {
        if (test.name.rfind(part, 0) != 0) continue;
        ++run;
        try {
            test.run();
        } catch (const std::exception& error) {
            ++failed;
            std::printf("FAILED %s\n  %s\n", test.name.c_str(), error.what());
        }
    }
    std::printf("%d tests, %d failed\n", run, failed);
    return run == 0 || failed > 0 ? 1 : 0;
}
