"""Telling people how a run does: alerts in its journal, delivered like what trackers are given."""

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
