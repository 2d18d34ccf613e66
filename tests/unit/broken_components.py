"""Components that break their contract in one way each; ``test_contract_suites`` runs them.

``caught_by`` names the test of the contract that must fail.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from llmforge import Component, Options, hookimpl
from llmforge.errors import DeployError
from llmforge.interfaces import Completion, ModelFolder, Outlook, Receipt, TokenShard
from llmforge.testing import (
    BackendContract,
    CallbackContract,
    DataContract,
    DeployContract,
    GenerationContract,
    ModelContract,
    OptimizerContract,
    ScheduleContract,
    StorageContract,
    TinyData,
    TinyModel,
    TinyTokenizer,
    TokenDataContract,
    TokenizerContract,
    TrackerContract,
)


class ContextOptions(Options):
    context: int = 16


class RateOptions(Options):
    lr: float = 0.1


def model(build: Any) -> type[Component]:
    """Return a component whose model is what ``build(vocab_size)`` makes."""

    class Broken(Component, kind="model"):
        """A broken model."""

        supports = frozenset({"kv_cache"})
        Options = ContextOptions

        @hookimpl
        def forge_build_model(self, tokenizer: Any) -> Any:
            return build(tokenizer.vocab_size)

    return Broken


class MeanLoss(TinyModel):
    def loss(self, batch: Any) -> Any:
        total, count = super().loss(batch)
        return total / count, count


class LooksAhead(TinyModel):
    def forward(self, inputs: Any, *, cache: Any = None) -> Any:
        logits = super().forward(inputs, cache=cache)
        return logits + super().forward(inputs.flip(1)).flip(1) if cache is None else logits


class LeaksAcrossRows(TinyModel):
    def forward(self, inputs: Any, *, cache: Any = None) -> Any:
        logits = super().forward(inputs, cache=cache)
        return logits + logits.mean(dim=0, keepdim=True)


class UnusedParameter(TinyModel):
    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.idle = torch.nn.Parameter(torch.zeros(2))


class OwnRandomness(TinyModel):
    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.head.weight = torch.nn.Parameter(self.head.weight * random.random())


class AlwaysOnTheCpu(TinyModel):
    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.mix.bias = torch.nn.Parameter(torch.zeros(8, device="cpu"))


class ForgetfulCache(TinyModel):
    def forward(self, inputs: Any, *, cache: Any = None) -> Any:
        del cache
        return super().forward(inputs)


class CacheWithoutLengths(TinyModel):
    def new_cache(self, rows: int, length: int) -> Any:
        cache = super().new_cache(rows, length)
        cache.set_lengths = lambda _: None
        return cache


class TestMeanLoss(ModelContract):
    component = model(MeanLoss)
    caught_by = "test_the_loss_is_the_summed_cross_entropy_and_the_count_of_scored_targets"


class TestLooksAhead(ModelContract):
    component = model(LooksAhead)
    caught_by = "test_no_position_sees_a_later_token"


class TestLeaksAcrossRows(ModelContract):
    component = model(LeaksAcrossRows)
    caught_by = "test_sequences_of_a_batch_do_not_see_each_other"


class TestUnusedParameter(ModelContract):
    component = model(UnusedParameter)
    caught_by = "test_every_parameter_gets_a_finite_gradient"


class TestOwnRandomness(ModelContract):
    component = model(OwnRandomness)
    caught_by = "test_equal_seeds_build_equal_models"


class TestAlwaysOnTheCpu(ModelContract):
    component = model(AlwaysOnTheCpu)
    caught_by = "test_on_the_meta_device_it_has_the_same_parameters_without_memory"


class TestForgetfulCache(ModelContract):
    component = model(ForgetfulCache)
    caught_by = "test_a_cache_gives_the_logits_of_the_whole_sequence"


class TestCacheWithoutLengths(ModelContract):
    component = model(CacheWithoutLengths)
    caught_by = "test_a_cache_goes_on_after_prompts_of_unequal_length"


class TestHeavyModule(ModelContract):
    component = model(TinyModel)  # this module imports torch at the top
    caught_by = "test_its_module_imports_no_heavy_package"


def tokenizer(build: Any, load: Any) -> type[Component]:
    """Return a component that builds from data and loads with the given functions."""

    class Broken(Component, kind="tokenizer"):
        """A broken tokenizer."""

        @hookimpl
        def forge_build_tokenizer(self, data: Any) -> Any:
            return build(data)

        @hookimpl
        def forge_load_tokenizer(self, directory: Path) -> Any:
            return load(directory)

    return Broken


class Lossy(TinyTokenizer):
    def encode(self, text: str) -> list[int]:
        return super().encode(text.lower())


class Shifted(TinyTokenizer):
    """Ids depend on the data, which the fingerprint does not tell."""

    def __init__(self, shift: int) -> None:
        self._shift = shift

    def encode(self, text: str) -> list[int]:
        return [(token + self._shift) % 256 for token in super().encode(text)]

    def decode(self, ids: Any) -> str:
        return super().decode([(token - self._shift) % 256 for token in ids if token < 256])


class BeyondVocabulary(TinyTokenizer):
    vocab_size = 100


class TestLossyTokenizer(TokenizerContract):
    component = tokenizer(lambda _: Lossy(), lambda _: Lossy())
    caught_by = "test_text_comes_back_unchanged"


class TestUntoldShift(TokenizerContract):
    component = tokenizer(lambda data: Shifted(len(data.splits)), lambda _: Shifted(2))
    caught_by = "test_an_equal_fingerprint_means_equal_ids"


class TestForgottenShift(TokenizerContract):
    component = tokenizer(lambda _: Shifted(3), lambda _: Shifted(0))
    caught_by = "test_it_is_the_same_after_saving_and_loading"


class TestBeyondVocabulary(TokenizerContract):
    component = tokenizer(lambda _: BeyondVocabulary(), lambda _: BeyondVocabulary())
    caught_by = "test_every_id_is_below_the_vocabulary_size"


class PathOptions(Options):
    path: str


class FingerprintOfThePath(Component, kind="data"):
    """Fingerprints the place instead of the text."""

    Options = PathOptions

    @hookimpl
    def forge_build_data(self) -> Any:
        data = TinyData({"train": Path(self.options.path).read_text().splitlines()})
        data.fingerprint = hashlib.sha256(self.options.path.encode()).hexdigest()
        return data


class OneFingerprintForAll(Component, kind="data"):
    """Fingerprints nothing, and gives another order each time."""

    Options = PathOptions

    @hookimpl
    def forge_build_data(self) -> Any:
        lines = Path(self.options.path).read_text().splitlines()
        turn = itertools.count()

        class Turning(TinyData):
            fingerprint = "constant"

            def iter_text(self, split: str) -> Any:
                del split
                at = next(turn) % len(lines)
                return iter(lines[at:] + lines[:at])

        data = Turning({"train": lines})
        data.fingerprint = "constant"
        return data


class WrittenData(DataContract):
    def write(self, directory: Path, sentences: tuple[str, ...]) -> Any:
        (directory / "text.txt").write_text("\n".join(sentences))
        return {"path": str(directory / "text.txt")}


class TestFingerprintOfThePath(WrittenData):
    component = FingerprintOfThePath
    caught_by = "test_equal_contents_have_an_equal_fingerprint_wherever_they_lie"


class TestOneFingerprintForAll(WrittenData):
    component = OneFingerprintForAll
    caught_by = "test_other_contents_have_another_fingerprint"


class TestAnotherOrderEachTime(WrittenData):
    component = OneFingerprintForAll
    caught_by = "test_every_split_has_text_and_gives_it_again_in_the_same_order"


class CopiedTokens(Component, kind="data"):
    """Hands out numbers of its own that anybody can change."""

    supports = frozenset({"tokens"})
    Options = PathOptions

    @hookimpl
    def forge_build_data(self) -> Any:
        return _TokensInMemory(Path(self.options.path))


class UnannouncedTokens(CopiedTokens, kind="data"):
    """Does not say that it gives tokens."""

    supports = frozenset()


class _TokensInMemory:
    splits = ("train",)
    description = "bytes"
    vocab_size = 256
    eos_id = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint = hashlib.sha256(path.read_bytes()).hexdigest()

    def shards(self, split: str) -> Any:
        ids = np.frombuffer(self.path.read_bytes(), np.uint8).copy()
        return [TokenShard(name=split, path=self.path, ids=ids)]


class WrittenTokens(TokenDataContract):
    def write(self, directory: Path, sentences: tuple[str, ...]) -> Any:
        (directory / "ids.bin").write_text("\n".join(sentences))
        return {"path": str(directory / "ids.bin")}


class TestCopiedTokens(WrittenTokens):
    component = CopiedTokens
    caught_by = "test_its_tokens_cannot_be_written_to"


class TestUnannouncedTokens(WrittenTokens):
    component = UnannouncedTokens
    caught_by = "test_it_says_that_it_gives_tokens"


def optimizer(build: Any) -> type[Component]:
    """Return a component whose optimizer ``build(parameters)`` makes."""

    class Broken(Component, kind="optimizer"):
        """A broken optimizer."""

        Options = RateOptions

        @hookimpl
        def forge_build_optimizer(self, parameters: Any) -> Any:
            return build([value for _, value in parameters])

    return Broken


def with_initial_lr(made: Any) -> Any:
    for group in made.param_groups:
        group["initial_lr"] = group["lr"]
    return made


class HiddenMomentum(torch.optim.SGD):
    """Keeps its running mean where no checkpoint finds it."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1)
        self.kept: dict[Any, Any] = {}

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for value in group["params"]:
                if value.grad is not None:
                    value.grad.add_(self.kept.get(value, 0), alpha=0.5)
                    self.kept[value] = value.grad.clone()
        return super().step(closure)


class DecaysWithoutRate(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for group in self.param_groups:
                for value in group["params"]:
                    value.mul_(0.999)
        return super().step(closure)


class TestHiddenMomentum(OptimizerContract):
    component = optimizer(lambda values: with_initial_lr(HiddenMomentum(values)))
    caught_by = "test_a_new_one_with_that_state_goes_on_exactly"


class TestNoInitialRate(OptimizerContract):
    component = optimizer(lambda values: torch.optim.SGD(values, lr=0.1))
    caught_by = "test_every_group_says_its_initial_learning_rate"


class TestForgottenParameter(OptimizerContract):
    component = optimizer(lambda values: with_initial_lr(torch.optim.SGD(values[1:], lr=0.1)))
    caught_by = "test_it_owns_every_parameter_once"


class TestDecaysWithoutRate(OptimizerContract):
    component = optimizer(lambda values: with_initial_lr(DecaysWithoutRate(values, lr=0.1)))
    caught_by = "test_a_learning_rate_of_zero_changes_nothing"


class TestTooTimid(OptimizerContract):
    component = optimizer(lambda values: with_initial_lr(torch.optim.SGD(values, lr=1e-6)))
    caught_by = "test_it_lowers_the_loss"


def schedule(build: Any) -> type[Component]:
    """Return a component whose schedule ``build(run)`` makes."""

    class Broken(Component, kind="schedule"):
        """A broken schedule."""

        @hookimpl
        def forge_build_schedule(self, run: Any) -> Any:
            return build(run)

    return Broken


def counting(run: Any) -> Any:
    calls = itertools.count()
    return lambda _: 1 / (1 + next(calls))


class TestCountsItsCalls(ScheduleContract):
    component = schedule(counting)
    caught_by = "test_it_has_no_memory_of_the_steps_it_was_asked_for"


class TestFallsBelowZero(ScheduleContract):
    component = schedule(lambda run: lambda step: 1 - step / run.schedule_steps)
    caught_by = "test_it_is_a_factor_between_zero_and_one_also_past_the_end"


class TestSpansTheShortenedRun(ScheduleContract):
    component = schedule(lambda run: lambda step: max(0.0, 1 - step / run.total_steps))
    caught_by = "test_it_spans_the_schedules_length_even_if_the_run_stops_early"


class RefusesNan(Component, kind="tracker"):
    """Fails where a value is no number."""

    @hookimpl
    def forge_metrics(self, event: Any) -> None:
        for value in event.values.values():
            int(value)


class WritesAnywhere(Component, kind="tracker"):
    """Leaves a file in the working directory."""

    @hookimpl
    def forge_run_end(self) -> None:
        Path("metrics.txt").write_text("done")


class NeverReturns(Component, kind="tracker"):
    """Takes far too long."""

    @hookimpl
    def forge_metrics(self) -> None:
        time.sleep(3)


class OpensOnce(Component, kind="tracker"):
    """Cannot continue in a place where something is already."""

    @hookimpl
    def forge_run_start(self, event: Any) -> None:
        (Path(event.directory) / "trackers" / self.name).mkdir(parents=True)


class TestRefusesNan(TrackerContract):
    component = RefusesNan
    caught_by = "test_it_survives_odd_values"


class TestWritesAnywhere(TrackerContract):
    component = WritesAnywhere
    caught_by = "test_it_writes_only_under_the_trackers_of_the_run"


class TestNeverReturns(TrackerContract):
    component = NeverReturns
    seconds = 0.2
    caught_by = "test_it_takes_every_event"


class TestOpensOnce(TrackerContract):
    component = OpensOnce
    caught_by = "test_a_resumed_run_goes_on_with_a_fresh_instance"


class LosesItsState(Component, kind="callback"):
    """Does not take back what it gave."""

    count = 0

    @hookimpl
    def forge_metrics(self) -> None:
        self.count += 1

    @hookimpl
    def forge_checkpoint_state(self) -> Any:
        return {"count": self.count}


class TestLosesItsState(CallbackContract):
    component = LosesItsState
    caught_by = "test_its_state_survives_a_checkpoint"


class Careless(Component, kind="generation"):
    """Draws from torch's own generator, repeats the prompt, and switches the model."""

    @hookimpl
    def forge_build_generator(self, model: Any) -> Any:
        class Generator:
            def generate(self, request: Any) -> Any:
                model.train()
                return [
                    Completion(
                        prompt=prompt,
                        text=f"{prompt} {torch.rand(1).item()}",
                        tokens=1,
                        finish="length",
                        seconds=0.0,
                    )
                    for prompt in request.prompts
                    for _ in range(request.samples)
                ]

        return Generator()


class TestCarelessSeed(GenerationContract):
    component = Careless
    caught_by = "test_equal_seeds_give_equal_texts"


class TestCarelessGenerator(GenerationContract):
    component = Careless
    caught_by = "test_drawing_leaves_torchs_own_generator_alone"


class TestCarelessPrompt(GenerationContract):
    component = Careless
    caught_by = "test_the_text_is_the_continuation_without_the_prompt"


class TestCarelessModel(GenerationContract):
    component = Careless
    caught_by = "test_the_model_is_left_as_it_was"


class TestCarelessStream(GenerationContract):
    component = Careless
    caught_by = "test_the_pieces_told_while_generating_are_the_text"


def backend(**broken: Any) -> type[Component]:
    """Return the built-in backend ``single`` with methods of its engine replaced."""

    class Broken(Component, kind="backend"):
        """A broken backend."""

        @hookimpl
        def forge_build_backend(self, run: Any) -> Any:
            from llmforge.plugins import load

            inner = load("backend", "single")().forge_build_backend(run=run)

            class Backend:
                def prepare(self, *factories: Any) -> Any:
                    engine = inner.prepare(*factories)
                    for name, replace in broken.items():
                        setattr(engine, name, replace(getattr(engine, name)))
                    return engine

            return Backend()

    return Broken


class TestDiscardsNothing(BackendContract):
    component = backend(discard=lambda _: lambda: None)
    caught_by = "test_a_discarded_micro_batch_leaves_no_trace"


class TestIgnoresTheSeed(BackendContract):
    component = backend(
        accumulate=lambda inner: lambda batch, targets, **_: inner(batch, targets=targets, seed=0)
    )
    caught_by = "test_the_seed_of_a_micro_batch_decides_its_dropout"


class TestIgnoresTheSchedule(BackendContract):
    component = backend(step=lambda inner: lambda _: inner(0))
    caught_by = "test_its_steps_equal_plain_pytorch"


class TestForgetsTheOptimizer(BackendContract):
    component = backend(
        load_state=lambda inner: lambda state: inner(type(state)(state.model, {}, state.values))
    )
    caught_by = "test_a_run_goes_on_exactly_from_its_state"


class TestForgetsTheGradients(BackendContract):
    component = backend(gradients=lambda _: dict)
    caught_by = "test_its_gradients_are_those_of_what_was_accumulated"


class TestNeverNoticesNan(BackendContract):
    component = backend(finite=lambda _: lambda: True)
    caught_by = "test_it_notices_numbers_that_are_not_finite"


def storage(**broken: Any) -> type[Component]:
    """Return the built-in storage ``local`` with methods of its places replaced."""

    class Broken(Component, kind="storage"):
        """A broken storage."""

        @hookimpl
        def forge_open_storage(self, url: str) -> Any:
            from llmforge.plugins import load

            place = load("storage", "local")().forge_open_storage(url)
            for name, replace in broken.items():
                setattr(place, name, replace(place))
            return place

    return Broken


class OnDisk(StorageContract):
    large = 1_000_000

    def make_url(self, directory: Path) -> str:
        return f"file://{directory}/place"


def create_after_looking(place: Any) -> Any:
    def create(name: str, content: bytes) -> None:
        if place.size(name) is not None:
            raise FileExistsError(name)
        time.sleep(0.05)
        place.write(name, content)

    return create


class TestLooksBeforeItCreates(OnDisk):
    component = storage(create=create_after_looking)
    caught_by = "test_of_many_that_create_one_file_one_succeeds"


class TestCallsEverythingTheSame(OnDisk):
    component = storage(same=lambda _: lambda *_, **__: True)
    caught_by = "test_other_contents_are_never_called_the_same"


class TestListsByPrefix(OnDisk):
    component = storage(
        names=lambda place: (
            lambda below, inner=place.names: [n for n in inner("") if n.startswith(below)]
        )
    )
    caught_by = "test_it_lists_what_is_in_a_folder_and_nothing_beside_it"


def put_in_place(place: Any) -> Any:
    def put(source: Path, name: str, *, progress: Any) -> None:
        target = Path(place.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes()[:100])
        progress(100)
        target.write_bytes(source.read_bytes())

    return put


class TestWritesInPlace(OnDisk):
    component = storage(put=put_in_place)
    caught_by = "test_an_upload_that_is_stopped_leaves_what_was_there"


class Cupboard:
    """A deployment to memory that is right except for one thing."""

    kept: ClassVar[dict[str, dict[str, bytes]]] = {}

    def __init__(self, address: str, fault: str) -> None:
        self.address = address
        self.fault = fault

    def look(self, folder: ModelFolder) -> Outlook:
        if self.fault == "looks by publishing":
            self.publish(folder, notice=print)
        if self.fault == "looks into the folder":
            read_folder(folder)
        digests = {name: file.sha256 for name, file in folder.files.items()}
        here = self.kept.get(self.address)
        same = here is not None and digests == {n: sha256(data) for n, data in here.items()}
        return Outlook(revision=self._revision(here) if same and here else "", send=(*digests,))

    def publish(self, folder: ModelFolder, *, notice: Any) -> Receipt:
        del notice
        files, before = read_folder(folder), self.kept.get(self.address, {})
        wrong = [name for name, data in files.items() if sha256(data) != folder.files[name].sha256]
        if self.fault != "believes what it reads" and wrong:
            raise DeployError(f"changed: {wrong}")
        sent = () if files == before and self.fault != "sends again" else tuple(files)
        self.kept[self.address] = {**before, **files} if self.fault == "keeps all" else files
        return Receipt(revision=self._revision(files), sent=sent)

    def _revision(self, files: dict[str, bytes]) -> str:
        return sha256(repr(sorted(files.items())).encode())


def read_folder(folder: ModelFolder) -> dict[str, bytes]:
    return {name: (folder.path / name).read_bytes() for name in folder.files}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def deployment(fault: str) -> type[Component]:
    """Return a component whose places have ``fault``."""

    class Broken(Component, kind="deploy"):
        """A broken deployment."""

        address_form = "cupboard:NAME"

        @hookimpl
        def forge_open_deployment(self, address: str) -> Any:
            return Cupboard(address, fault)

    return Broken


class InMemory(DeployContract):
    def make_address(self, directory: Path) -> str:
        return f"cupboard:{directory}"

    def published(self, address: str) -> dict[str, bytes] | None:
        return Cupboard.kept.get(address)


class TestLooksByPublishing(InMemory):
    component = deployment("looks by publishing")
    caught_by = "test_looking_changes_nothing"


class TestLooksIntoTheFolder(InMemory):
    component = deployment("looks into the folder")
    caught_by = "test_the_folder_is_not_needed_to_look"


class TestBelievesWhatItReads(InMemory):
    component = deployment("believes what it reads")
    caught_by = "test_a_file_that_changed_meanwhile_is_not_published"


class TestSendsAgain(InMemory):
    component = deployment("sends again")
    caught_by = "test_the_same_again_sends_nothing"


class TestKeepsAll(InMemory):
    component = deployment("keeps all")
    caught_by = "test_the_next_one_takes_its_place"


CASES = {
    name: case.caught_by
    for name, case in list(globals().items())
    if name.startswith("Test") and hasattr(case, "caught_by")
}
