"""What gpu.py has found, in tables, and whether it is what was asked for."""

from __future__ import annotations

import math
from typing import Any

import harness

TARGETS = {"products": 0.8, "times": 3.0, "images": 1.5, "gram": 0.7, "kappa": 0.2}


def milliseconds(value: float) -> str:
    return harness.digits(1e3 * value)


def mebibytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f}"


def contenders_of(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row["seconds"]))


def milliseconds_of(row: dict[str, Any], names: list[str]) -> list[str]:
    return [milliseconds(row["seconds"][name]) if name in row["seconds"] else "" for name in names]


def left_out(rows: list[dict[str, Any]]) -> list[str]:
    return [f"{name} left out: {why}" for row in rows[:1] for name, why in row["left_out"].items()]


def tables(found: dict[str, Any]) -> str:
    texts = []
    if "products" in found:
        rows = found["products"]["rows"]
        names = contenders_of(rows)
        header = [
            f"products, {found['products']['shape']}",
            *(f"{name}, ms" for name in names),
            "TF/s",
            "of cuBLAS' rate",
        ]
        lines = [
            [
                row["precision"],
                *milliseconds_of(row, names),
                harness.digits(row["teraflops"]),
                f"{row['share']:.0%}" if "share" in row else "",
            ]
            for row in rows
        ]
        texts.append(harness.table(header, lines))
        texts += left_out(rows)
    if "images" in found:
        rows = found["images"]["rows"]
        names = contenders_of(rows)
        header = [f"products, {found['images']['shape']}", *(f"{name}, ms" for name in names)]
        texts.append(harness.table(header, [[row["precision"], *milliseconds_of(row, names)] for row in rows]))
        texts += left_out(rows)
    if "gram" in found:
        header = [f"forming K, {found['gram']['shape']}", "N", "ms", "TF/s", "of cuBLAS' SYRK", "memory beside K / K"]
        lines = [
            [row["precision"], f"{row['N']:,}", milliseconds(row["seconds"]["form"]), harness.digits(row["teraflops"])]
            + [
                f"{row[key]:{form}}" if row.get(key) is not None else ""
                for key, form in (("share", ".0%"), ("matrices", ".2f"))
            ]
            for row in found["gram"]["rows"]
        ]
        texts.append(harness.table(header, lines))
    if "kappa" in found:
        lines = [
            [row["dtype"], f"{row['kappa']:.6g}", harness.digits(row["seconds"])] for row in found["kappa"]["rows"]
        ]
        texts.append(harness.table([f"kappa, {found['kappa']['shape']}", "kappa", "s"], lines))
    if "width" in found:
        lines = [
            [f"{row['m']:,}", f"{row['kappa']:.4g}", harness.digits(row["seconds"]), mebibytes(row["bytes"])]
            for row in found["width"]["rows"]
        ]
        texts.append(harness.table([f"a sample in law, {found['width']['shape']}: m", "kappa", "s", "MiB"], lines))
    if "errors" in found:
        keys = ("products", "gram", "largest eigenvalue")
        lines = [[row["precision"], *(f"{row[key]:.1e}" for key in keys)] for row in found["errors"]["rows"]]
        texts.append(harness.table([f"relative error, {found['errors']['shape']}", *keys], lines))
    return "\n\n".join(texts)


def verdicts(found: dict[str, Any]) -> list[str]:
    """The targets, each with what was measured, or that it was not."""
    lines = []
    for row in found["products"]["rows"]:
        where, seconds = f"products, {row['precision']}", row["seconds"]
        lines.append(verdict(f"{where}: share of cuBLAS' rate", row.get("share"), TARGETS["products"]))
        for name in ("torch.func, compiled", "curvlinops"):
            times = seconds[name] / seconds["auto"] if name in seconds else None
            lines.append(verdict(f"{where}: times faster than {name}", times, TARGETS["times"]))
    for row in found["images"]["rows"]:
        for name in ("torch.func, compiled", "curvlinops"):
            times = row["seconds"][name] / row["seconds"]["gnfast"] if name in row["seconds"] else None
            lines.append(verdict(f"ResNet-20, {row['precision']}: times faster than {name}", times, TARGETS["images"]))
    for row in found["gram"]["rows"]:
        lines.append(verdict(f"K, {row['precision']}: share of SYRK's rate", row.get("share"), TARGETS["gram"]))
    for row in found["kappa"]["rows"]:
        lines.append(verdict(f"kappa, {row['dtype']}: seconds", row["seconds"], TARGETS["kappa"], below=True))
    return lines


def verdict(what: str, value: float | None, target: float, below: bool = False) -> str:
    if value is None or not math.isfinite(value):
        return f"not measured  {what} (target {target:g})"
    met = value <= target if below else value >= target
    return f"{'met' if met else 'MISSED':12}  {what} {value:.3g} (target {target:g})"
