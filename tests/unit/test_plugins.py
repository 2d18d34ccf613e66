"""Finding, restricting and loading components; the per-run manager; the isolating notifier."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

import llmforge
from llmforge import Component, hookimpl, installed, plugins
from llmforge.errors import PluginError
from llmforge.events import MetricsLogged

METRICS = MetricsLogged(step=1, values={"train/loss": 2.0}, time=0.0)

TRACKER = '''
from llmforge import Component, hookimpl

class {cls}(Component, kind="tracker"):
    """A tracker of a test."""

    @hookimpl
    def forge_metrics(self, event):
        pass
'''


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, dict[str, str]], None]]:
    """Install a distribution: its metadata and modules, as pip would lay them out."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FORGE_PLUGINS", raising=False)
    before = set(sys.modules)

    def put(distribution: str, entry_points: str, modules: dict[str, str]) -> None:
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        (info / "METADATA").write_text(metadata)
        (info / "entry_points.txt").write_text(entry_points)
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        plugins.refresh()

    yield put
    plugins.refresh()
    for name in set(sys.modules) - before:
        if (tmp_path / f"{name}.py").exists():
            del sys.modules[name]


def install_tracker(
    install: Callable[[str, str, dict[str, str]], None],
    distribution: str,
    name: str,
    module: str,
) -> None:
    install(
        distribution,
        f"[llmforge.trackers]\n{name} = {module}:Mine\n",
        {module: TRACKER.format(cls="Mine")},
    )


# Finding and loading


def test_a_component_is_found_by_its_entry_point_without_being_imported(install) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    entry = plugins.entries("tracker")["acme"]
    assert (entry.kind, entry.distribution, entry.version) == ("tracker", "acme-tools", "1.2")
    assert entry.target == "acme_tracker:Mine"
    assert "acme_tracker" not in sys.modules


def test_loading_imports_the_one_component_and_names_it_after_its_entry_point(install) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    install_tracker(install, "other-tools", "other", "other_tracker")
    assert plugins.load("tracker", "acme").name == "acme"
    assert "other_tracker" not in sys.modules


def test_an_unknown_name_is_answered_with_the_nearest_one(install) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    with pytest.raises(PluginError, match=r"unknown tracker 'acne'\s+did you mean 'acme'\?"):
        plugins.load("tracker", "acne")


def test_an_unknown_name_far_from_all_lists_what_there_is(install) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    with pytest.raises(PluginError, match=r"available: acme, .*forge plugins list"):
        plugins.load("tracker", "qqqqqqqq")


def test_a_name_that_two_distributions_list_names_both(install) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    install_tracker(install, "zebra-tools", "acme", "zebra_tracker")
    with pytest.raises(PluginError) as caught:
        plugins.entries("tracker")
    for part in ("'acme'", "acme-tools", "acme_tracker:Mine", "zebra-tools", "zebra_tracker:Mine"):
        assert part in str(caught.value)


def test_listing_shows_both_components_of_a_duplicate_name(install) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    install_tracker(install, "zebra-tools", "acme", "zebra_tracker")
    found = [entry for entry in plugins.listed("tracker") if entry.name == "acme"]
    assert {entry.distribution for entry in found} == {"acme-tools", "zebra-tools"}


def test_a_duplicate_disappears_when_the_environment_allows_only_one(install, monkeypatch) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    install_tracker(install, "zebra-tools", "acme", "zebra_tracker")
    monkeypatch.setenv("FORGE_PLUGINS", "zebra-tools")
    assert plugins.entries("tracker")["acme"].distribution == "zebra-tools"


def test_an_empty_restriction_leaves_llmforges_own_components_only(install, monkeypatch) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    monkeypatch.setenv("FORGE_PLUGINS", "")
    found = plugins.entries("tracker")
    assert "acme" not in found
    assert "tensorboard" in found


@pytest.mark.parametrize("spelling", ["Acme_Tools", " acme.tools ", "other,acme-tools"])
def test_the_restriction_spells_distributions_as_pip_does(install, monkeypatch, spelling) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    monkeypatch.setenv("FORGE_PLUGINS", spelling)
    assert "acme" in plugins.entries("tracker")


def test_the_same_component_listed_twice_by_one_distribution_is_one(install) -> None:
    install_tracker(install, "acme-tools", "acme", "acme_tracker")
    install("acme-tools-again", "[llmforge.trackers]\nacme = acme_tracker:Mine\n", {})
    assert plugins.load("tracker", "acme").name == "acme"


def test_a_class_under_two_names_is_refused_because_it_has_one_name(install) -> None:
    points = "[llmforge.trackers]\na = two_names:Mine\nb = two_names:Mine\n"
    install("acme-tools", points, {"two_names": TRACKER.format(cls="Mine")})
    with pytest.raises(PluginError, match="two_names:Mine of acme-tools is listed as a and b"):
        plugins.load("tracker", "a")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("import a_package_nobody_has\n", "ModuleNotFoundError: .*a_package_nobody_has"),
        ("raise RuntimeError('half written')\n", "RuntimeError: half written"),
        ("", "AttributeError"),
        ("Mine = 3\n", "not a class derived from llmforge.Component"),
        ("class Mine:\n    pass\n", "not a class derived from llmforge.Component"),
        (TRACKER.format(cls="Mine").replace("tracker", "callback"), "is of kind 'callback'"),
    ],
)
def test_a_broken_component_is_named_with_its_distribution(install, module, message) -> None:
    install("acme-tools", "[llmforge.trackers]\nacme = broken_tracker:Mine\n", {})
    (Path(sys.path[0]) / "broken_tracker.py").write_text(module)
    with pytest.raises(PluginError, match=message) as caught:
        plugins.load("tracker", "acme")
    assert "tracker 'acme' (broken_tracker:Mine of acme-tools)" in str(caught.value)


def test_commands_are_found_without_being_imported(install) -> None:
    install("acme-tools", "[llmforge.commands]\nacme = acme_command:app\n", {"acme_command": ""})
    assert installed.commands()["acme"].value == "acme_command:app"
    assert "acme_command" not in sys.modules


def test_a_command_that_two_distributions_list_names_both(install) -> None:
    install("acme-tools", "[llmforge.commands]\nacme = a:app\n", {})
    install("zebra-tools", "[llmforge.commands]\nacme = z:app\n", {})
    with pytest.raises(PluginError, match=r"commands are named 'acme': .*acme-tools|zebra-tools"):
        installed.commands()


def test_every_built_in_entry_point_is_listed_under_its_kind() -> None:
    own = [entry for entry in plugins.listed() if entry.distribution == "llmforge-train"]
    assert {"model", "tokenizer", "data", "optimizer", "schedule", "backend", "tracker"} <= {
        entry.kind for entry in own
    }


# The manager


class Shout(Component, kind="tracker"):
    """Remembers what it heard."""

    def __init__(self, options: object = None) -> None:
        super().__init__(options)
        self.heard: list[object] = []

    @hookimpl
    def forge_metrics(self, event) -> None:
        self.heard.append(event)


def named(component: Component, name: str) -> Component:
    component.name = name
    return component


def schedule(name: str, answer: object) -> Component:
    class Fixed(Component, kind="schedule"):
        """Answers what it was given."""

        @hookimpl
        def forge_build_schedule(self):
            return answer

    return named(Fixed(), name)


def test_managers_of_two_runs_share_nothing() -> None:
    first, second = named(Shout(), "a"), named(Shout(), "b")
    manager = plugins.build_manager([first])
    plugins.build_manager([second])
    manager.hook.forge_metrics(event=METRICS)
    assert first.heard == [METRICS]
    assert second.heard == []


def test_selecting_a_component_twice_is_an_error() -> None:
    with pytest.raises(PluginError, match="tracker:a is selected twice"):
        plugins.build_manager([named(Shout(), "a"), named(Shout(), "a")])


def test_a_misspelt_hook_is_named_with_the_right_spelling() -> None:
    class Wrong(Component, kind="tracker"):
        """Has a typing error."""

        @hookimpl
        def forge_metricz(self, event):
            pass

    with pytest.raises(PluginError, match=r"tracker:w implements forge_metricz") as caught:
        plugins.build_manager([named(Wrong(), "w")])
    assert "did you mean forge_metrics?" in str(caught.value)


def test_a_hook_with_an_argument_it_does_not_have_is_refused() -> None:
    class Wrong(Component, kind="tracker"):
        """Wants too much."""

        @hookimpl
        def forge_metrics(self, event, trainer):
            pass

    with pytest.raises(PluginError, match=r"tracker:w: (?s:.)*trainer"):
        plugins.build_manager([named(Wrong(), "w")])


def test_a_factory_returns_what_the_one_provider_built() -> None:
    manager = plugins.build_manager([schedule("one", "built")])
    assert plugins.call_factory(manager, "forge_build_schedule", run=None) == "built"


def test_a_factory_that_answers_none_is_an_error() -> None:
    manager = plugins.build_manager([schedule("lazy", None)])
    with pytest.raises(PluginError, match="forge_build_schedule of schedule:lazy returned None"):
        plugins.call_factory(manager, "forge_build_schedule", run=None)


def test_a_factory_without_provider_is_an_error() -> None:
    with pytest.raises(PluginError, match="exactly one provider, found none"):
        plugins.call_factory(plugins.build_manager([]), "forge_build_schedule", run=None)


def test_a_factory_with_two_providers_names_both() -> None:
    manager = plugins.build_manager([schedule("one", 1), schedule("two", 2)])
    with pytest.raises(PluginError, match="found schedule:one, schedule:two"):
        plugins.call_factory(manager, "forge_build_schedule", run=None)


def test_a_wrapper_around_a_factory_is_no_second_provider() -> None:
    class Doubler(Component, kind="callback"):
        """Changes what the provider built."""

        @hookimpl(wrapper=True)
        def forge_build_schedule(self):
            return 2 * (yield)

    manager = plugins.build_manager([schedule("one", 21), named(Doubler(), "d")])
    assert plugins.call_factory(manager, "forge_build_schedule", run=None) == 42


def test_collected_answers_are_told_apart_by_component() -> None:
    class Stateful(Component, kind="callback"):
        """Has state, and asks for no argument."""

        @hookimpl
        def forge_checkpoint_state(self):
            return {"of": self.name} if self.name != "stateless" else None

    components = [named(Stateful(), name) for name in ("a", "stateless", "b")]
    manager = plugins.build_manager([*components, named(Shout(), "c")])
    assert plugins.collect(manager, "forge_checkpoint_state", run=None) == {
        "callback:a": {"of": "a"},
        "callback:b": {"of": "b"},
    }


# The notifier


class Failing(Shout, kind="tracker"):
    """Fails at every event."""

    error: BaseException = ValueError("disk on fire")

    @hookimpl
    def forge_metrics(self, event) -> None:
        super().forge_metrics(event)
        raise self.error


def test_a_failing_component_neither_stops_nor_hides_another() -> None:
    before, bad, after = named(Shout(), "a"), named(Failing(), "bad"), named(Shout(), "c")
    failures: list[tuple[str, str, Exception]] = []
    notify = plugins.Notifier(
        plugins.build_manager([before, bad, after]), lambda *failure: failures.append(failure)
    )
    notify("forge_metrics", event=METRICS)
    assert before.heard == after.heard == [METRICS]
    assert failures == [("tracker:bad", "forge_metrics", Failing.error)]


def test_every_component_hears_an_event_once_in_the_order_of_selection() -> None:
    order: list[str] = []

    class Ordered(Component, kind="tracker"):
        """Notes when it was called."""

        @hookimpl
        def forge_metrics(self):
            order.append(self.name)

    manager = plugins.build_manager([named(Ordered(), name) for name in "abc"])
    plugins.Notifier(manager, lambda *_: None)("forge_metrics", event=METRICS)
    assert order == ["a", "b", "c"]


def test_a_component_that_exits_the_process_is_reported_instead() -> None:
    bad = named(Failing(), "bad")
    bad.error = SystemExit(3)
    failures: list[tuple[str, str, Exception]] = []
    notify = plugins.Notifier(plugins.build_manager([bad]), lambda *f: failures.append(f))
    notify("forge_metrics", event=METRICS)
    assert "sys.exit(3)" in str(failures[0][2])


def test_ctrl_c_inside_a_component_reaches_the_run() -> None:
    bad = named(Failing(), "bad")
    bad.error = KeyboardInterrupt()
    notify = plugins.Notifier(plugins.build_manager([bad]), lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        notify("forge_metrics", event=METRICS)


def test_a_component_that_changes_an_event_changes_it_for_itself_only() -> None:
    class Meddler(Component, kind="tracker"):
        """Writes into what it was given."""

        @hookimpl
        def forge_metrics(self, event):
            event.values["train/loss"] = 0.0

    event = MetricsLogged(step=1, values={"train/loss": 2.0}, time=0.0)
    listener = named(Shout(), "b")
    notify = plugins.Notifier(
        plugins.build_manager([named(Meddler(), "a"), listener]), lambda *_: None
    )
    notify("forge_metrics", event=event)
    assert event.values == {"train/loss": 2.0}
    assert listener.heard == [event]


def test_a_hook_llmforge_does_not_have_is_a_defect_of_the_caller() -> None:
    notify = plugins.Notifier(plugins.build_manager([]), lambda *_: None)
    with pytest.raises(AttributeError, match="forge_nothing"):
        notify("forge_nothing", event=METRICS)


# load_component


def test_a_component_to_build_on_has_name_and_options() -> None:
    found = llmforge.load_component("optimizer", "adamw", {"lr": 0.5})
    assert (found.kind, found.name, found.options.lr) == ("optimizer", "adamw", 0.5)
    assert llmforge.load_component("backend", "single").options is not None


def test_a_component_to_build_on_that_is_unknown_is_answered_with_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"unknown backend 'singel'\s+did you mean 'single'"):
        llmforge.load_component("backend", "singel")


def test_options_of_a_component_to_build_on_are_checked() -> None:
    with pytest.raises(ValidationError):
        llmforge.load_component("optimizer", "adamw", {"lrr": 0.5})


def test_a_component_to_build_on_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plugins.load("optimizer", "adamw"), "requires", ("no_such_module",))
    with pytest.raises(PluginError, match=r"needs the no_such_module package"):
        llmforge.load_component("optimizer", "adamw")
