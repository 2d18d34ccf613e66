"""Telling people how a run does: alerts in its journal, delivered like what trackers are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmforge.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from llmforge.courier.notifications.alerts import NOTIFY, alert, is_trial
    from llmforge.courier.notifications.delivery import pending_messages
    from llmforge.courier.notifications.notifications import Notifications
    from llmforge.courier.notifications.targets import notify_problems

__all__ = [
    "NOTIFY",
    "Notifications",
    "alert",
    "is_trial",
    "notify_problems",
    "pending_messages",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "NOTIFY": "llmforge.courier.notifications.alerts",
        "Notifications": "llmforge.courier.notifications.notifications",
        "alert": "llmforge.courier.notifications.alerts",
        "is_trial": "llmforge.courier.notifications.alerts",
        "notify_problems": "llmforge.courier.notifications.targets",
        "pending_messages": "llmforge.courier.notifications.delivery",
    },
)
