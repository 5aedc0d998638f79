"""The card about what each task keeps in memory while it is trained."""

from __future__ import annotations

from mtpeft.report.groups import Comparison, Group
from mtpeft.report.layout import card, details
from mtpeft.report.markup import escape, table
from mtpeft.report.numbers import count

#: what takes memory in training -> its title
BYTES = {
    "method": "Method",
    "head": "Head",
    "gradients": "Gradients",
    "optimizer": "Optimiser ({optimizer})",
    "activations": "Activations of one more image or clip",
}


def memory_card(comparison: Comparison) -> str:
    """Trained weights and bytes of each task, of the first run of each group that tells them; empty where none does."""
    told = [group for group in comparison.groups if "memory" in group.runs[0]]
    if not told:
        return ""
    tables = [_table(group) for group in told]
    if len(tables) > 1:
        tables = [details(group.label, found) for group, found in zip(told, tables, strict=True)]
    rules = dict.fromkeys(group.runs[0]["memory"]["rule"] for group in told)
    notes = "".join(f"<p class='note'>{escape(rule)}</p>" for rule in rules)
    return card("Memory in training", "Weights and bytes of each task; the backbone is there once.", *tables, notes)


def _table(group: Group) -> str:
    from mtpeft.printing import size_text  # loads rich

    run = group.runs[0]
    memory = run["memory"]
    rows = [
        [task["name"], count(facts["trained"]), *(size_text(facts[key]) for key in BYTES)]
        for task in run["tasks"]
        if (facts := memory["per_task"].get(task["name"])) is not None
    ]
    titles = [title.format(optimizer=memory["optimizer"]) for title in BYTES.values()]
    caption = f"{group.label}: each task in training (backbone {size_text(memory['backbone'])}, {memory['precision']})"
    return table(caption, ["Task", "Trained weights, head included", *titles], rows)
