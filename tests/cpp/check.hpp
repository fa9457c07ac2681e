// A test is a function that registers itself; a failed check throws, with where and what.
#pragma once

#include <cmath>
#include <functional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace gnfast::test {

struct Test {
    std::string name;  // "part: what holds"
    std::function<void()> run;
};

inline std::vector<Test>& all() {
    static std::vector<Test> tests;
    return tests;
}

struct Register {
    Register(const char* name, std::function<void()> run) { all().push_back({name, std::move(run)}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
    std::ostringstream out;
    out << file << ":" << line << ": " << what;
    throw std::runtime_error(out.str());
}

inline void near(double found, double expected, double tolerance, const char* file, int line, const char* what) {
    if (std::abs(found - expected) <= tolerance) return;  // NaN fails
    std::ostringstream out;
    out.precision(17);
    out << what << " is " << found << " but must be " << expected << " up to " << tolerance;
    fail(file, line, out.str());
}

}  // namespace gnfast::test

#define GNFAST_JOIN_(a, b) a##b
#define GNFAST_JOIN(a, b) GNFAST_JOIN_(a, b)
#define TEST(name)                                                                                            \
    static void GNFAST_JOIN(test_, __LINE__)();                                                               \
    static const gnfast::test::Register GNFAST_JOIN(register_, __LINE__)(name, GNFAST_JOIN(test_, __LINE__)); \
    static void GNFAST_JOIN(test_, __LINE__)()
#define CHECK(condition) \
    if (!(condition)) gnfast::test::fail(__FILE__, __LINE__, #condition)
#define CHECK_NEAR(found, expected, tolerance) gnfast::test::near(found, expected, tolerance, __FILE__, __LINE__, #found)
