"""``forge runs``: find, inspect, compare and keep runs. No command here imports torch."""

from llmforge.cli.lazy_group import lazy_group

_HERE = "llmforge.cli.run_commands"

app = lazy_group(
    {
        "list": f"{_HERE}.listing:list_",
        "show": f"{_HERE}.looking:show",
        "status": f"{_HERE}.looking:status",
        "metrics": f"{_HERE}.looking:metrics",
        "path": f"{_HERE}.looking:path",
        "diff": f"{_HERE}.comparing:diff",
        "clear": f"{_HERE}.removing:clear",
        "sync": "llmforge.cli.runs_sync:sync",
        "pull": "llmforge.cli.runs_storage:pull",
    },
    help="List, inspect, compare and clear runs.",
)
