"""``forge runs``: find, inspect, compare and keep runs. Nothing here imports torch."""

from llmforge.cli.lazy_group import lazy_group

_HERE = "llmforge.cli.run_commands"

app = lazy_group(
    {
        "list": f"{_HERE}.listing:list_",
        "show": f"{_HERE}.looking:show",
        "status": f"{_HERE}.looking:status",
        "metrics": f"{_HERE}.looking:metrics",
        "path": f"{_HERE}.looking:path",
        "compare": f"{_HERE}.comparing:compare",
        "diff": f"{_HERE}.comparing:diff",
        "plot": f"{_HERE}.plotting:plot",
        "verify": f"{_HERE}.verifying:verify",
        "tag": f"{_HERE}.annotating:tag",
        "note": f"{_HERE}.annotating:note",
        "rename": f"{_HERE}.annotating:rename",
        "logs": f"{_HERE}.logs:logs",
        "resume": f"{_HERE}.training:resume",
        "clone": f"{_HERE}.training:clone",
        "reproduce": f"{_HERE}.reproducing:reproduce",
        "clear": f"{_HERE}.removing:clear",
        "delete": f"{_HERE}.trash:delete",
        "restore": f"{_HERE}.trash:restore",
        "gc": f"{_HERE}.trash:gc",
        "sync": "llmforge.cli.runs_sync:sync",
        "pull": "llmforge.cli.runs_storage:pull",
    },
    help="List, inspect, compare, continue and delete runs.",
)
