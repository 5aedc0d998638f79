"""Made-up contents of sweep.json."""

from __future__ import annotations

from typing import Any


def make_run(folder: str, seed: int, order: int | None, value: float | None, weights: int = 8192) -> dict[str, Any]:
    """A run; one without a value failed."""
    failed = value is None
    return {
        "folder": folder,
        "seed": seed,
        "order": order,
        "reason": "its data are <gone>" if failed else None,
        "value": value,
        "tasks": {} if failed else {"task0": value, "task1": value},
        "weights": None if failed else weights,
    }


def make_sweep(select: bool = False, orders: bool = False, broken: bool = False) -> dict[str, Any]:
    """Two methods, two rates, two seeds; `select`: the higher rate was chosen on validation data."""
    settings = []
    for index, (method, weights) in enumerate((("lora", 8192), ("linear_probe", 0))):
        for rate in (0.001, 0.003):
            name = f"{method}-lr={rate}"
            value = 70.0 + 10 * index + 1000 * rate
            runs = []
            for order in (0, 1) if orders else (None,):
                for seed in (0, 1):
                    place = f"{name}{'' if order is None else f'-order{order}'}-seed{seed}"
                    found = (
                        None if broken and (index, rate, seed) == (0, 0.001, 1) else value + 2 * seed + 4 * (order or 0)
                    )
                    runs.append(make_run(place, seed, order, found, weights))
            held = [{**run, "folder": f"validation/{run['folder']}"} for run in runs] if select else []
            chosen = rate == 0.003
            tested = runs if chosen or not select else []
            values = {"method": {"name": method}, "training.optimizer.lr": rate}
            settings.append(
                {"name": name, "method": method, "values": values, "chosen": chosen, "validation": held, "test": tested}
            )
    return {
        "schema": 1,
        "kind": "sweep",
        "name": "small",
        "recipe": {"name": "small", "seed": 0},
        "axes": [
            {"key": "method", "values": [{"name": "lora"}, {"name": "linear_probe"}]},
            {"key": "training.optimizer.lr", "values": [0.001, 0.003]},
        ],
        "seeds": [0, 1],
        "orders": [0, 1] if orders else None,
        "select": {"share": 0.1, "seed": 0} if select else None,
        "figure": {"title": "average accuracy", "unit": "%", "higher_is_better": True},
        "settings": settings,
    }
