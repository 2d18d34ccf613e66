"""``forge deploy`` to storage, and what holds for every place: once, whole, and continued."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from deploy_parts import deployments, exported, files_of, in_storage, stored_names
from forge_process import Workplace
from servers import FaultProxy, Server, make_s3_bucket

ROOT = Path(__file__).parents[2]


def test_a_run_is_deployed_to_a_folder_that_transformers_reads(
    trained: Workplace, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/models/tiny"
    output = trained.forge_here("deploy", "tiny", "--to", url)
    assert "files sent and verified, step-00000012-" in output
    assert in_storage(url) == exported(trained)
    metadata = json.loads((tmp_path / "models" / "tiny" / "metadata.json").read_text())
    assert (metadata["run"], metadata["step"]) == ("tiny", 12)
    assert metadata["recipe_hash"] == trained.record["identity"]["hash"]
    assert metadata["metrics"]["val/loss"] == trained.rows[-1]["val/loss"]

    from transformers import AutoModelForCausalLM

    folder = tmp_path / "models" / "tiny" / metadata["current"]
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() > 0


def test_a_plain_path_is_a_folder_of_this_machine(trained: Workplace, tmp_path: Path) -> None:
    output = trained.forge_here("deploy", "tiny", "--to", f"{tmp_path}/models/../tiny")
    assert f"file://{tmp_path}/tiny: " in output
    assert in_storage(f"file://{tmp_path}/tiny") == exported(trained)


def test_what_an_option_says_is_not_blamed_on_the_recipe(trained: Workplace) -> None:
    for option, wrong in (("--to", "s4://bucket/x"), ("--to", "acme/tiny"), ("--archive", "zip")):
        place = () if option == "--to" else ("--to", "hf://acme/tiny")
        message = trained.forge_here("deploy", "tiny", option, wrong, *place, expect=2)
        assert f"forge: {option}: " in message
        assert "recipe.toml" not in message
    assert "a folder of this machine is file:///" in trained.forge_here(
        "deploy", "tiny", "--to", "acme/tiny", expect=2
    )


def test_a_folder_that_is_no_export_says_what_it_lacks(trained: Workplace, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    message = trained.forge_here(
        "deploy", str(tmp_path / "plain"), "--to", f"{tmp_path}/out", expect=2
    )
    assert f"{tmp_path}/plain cannot be deployed: it has no training_args.json" in message
    assert "forge export RUN --to DIR" in message


def test_a_place_that_is_a_file_is_said_without_the_name_of_an_exception(
    trained: Workplace, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("x")
    message = trained.forge_here("deploy", "tiny", "--to", f"{tmp_path}/taken/in", expect=1)
    assert "a part of this path is a file" in message
    assert "Error" not in message


def test_offline_is_named_as_what_forbids_the_hub(trained: Workplace) -> None:
    message = trained.forge_here("deploy", "tiny", "--to", "hf://acme/tiny", expect=1)
    assert "FORGE_OFFLINE is set" in message
    assert "unset FORGE_OFFLINE" in message


def test_a_reader_fetches_it_as_the_documentation_says(
    trained: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/models/tiny"
    trained.forge_here("deploy", "tiny", "--to", url)
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("s3://bucket/models/tiny", url), {})
    assert files_of(tmp_path / "tiny") == exported(trained)


def test_what_is_there_already_is_left_as_it_is(trained: Workplace, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/models/tiny"
    trained.forge_here("deploy", "tiny", "--to", url)
    assert not trained.run.deploying.exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*")}
    output = trained.forge_here("deploy", "tiny", "--to", url)
    assert f"{url}: there already, step-00000012-" in output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "models").rglob("*")} == before


def test_another_checkpoint_takes_the_place_of_the_one_before(
    trained: Workplace, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/models/tiny"
    trained.forge_here("deploy", "tiny@10", "--to", url)
    first = in_storage(url)
    trained.forge_here("deploy", "tiny", "--to", url)
    assert in_storage(url) == exported(trained) != first
    assert len(stored_names(url)) == 2
    assert deployments(trained)[url]["step"] == 12
    trained.forge_here("deploy", "tiny", "--checkpoint", "10", "--to", url)
    assert in_storage(url) == first


def test_what_went_missing_is_sent_again(trained: Workplace, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/models/tiny"
    trained.forge_here("deploy", "tiny", "--to", url)
    (lost,) = (tmp_path / "models" / "tiny").glob("step-*/model.safetensors")
    lost.unlink()
    assert "1 file sent" in trained.forge_here("deploy", "tiny", "--to", url)
    assert in_storage(url) == exported(trained)


def test_an_archive_has_the_same_bytes_each_time(trained: Workplace, tmp_path: Path) -> None:
    urls = [f"file://{tmp_path}/{name}/tiny" for name in ("one", "two")]
    for url in urls:
        trained.forge_here("deploy", "tiny", "--to", url, "--archive", "tar.gz")
        assert in_storage(url) == exported(trained)
    archives = [path.read_bytes() for path in sorted(tmp_path.glob("*/tiny/*/model.tar.gz"))]
    assert archives[0] == archives[1]
    trained.forge_here("deploy", "tiny", "--to", urls[0])
    assert in_storage(urls[0]) == exported(trained)
    assert len(stored_names(urls[0])) == 2


def test_an_exported_folder_is_deployed_as_it_is(trained: Workplace, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/models/tiny"
    files = exported(trained)
    (folder,) = trained.path.glob("exported-*")
    (folder / "README.md").write_text("# Mine\n", encoding="utf-8")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "left-by-a-tool").write_text("x", encoding="utf-8")
    trained.forge_here("deploy", str(folder), "--to", url)
    assert in_storage(url) == {**files, "README.md": b"# Mine\n"}
    metadata = json.loads((tmp_path / "models" / "tiny" / "metadata.json").read_text())
    assert (metadata["run"], metadata["step"]) == ("tiny", 12)
    assert metadata["recipe_hash"] == trained.record["identity"]["hash"]
    assert f"{url}: there already" in trained.forge_here("deploy", str(folder), "--to", url)
    message = trained.forge_here("deploy", str(folder), "--to", url, "--merge", expect=2)
    assert "exported already" in message


def test_a_run_comes_before_a_folder_of_its_name(trained: Workplace, tmp_path: Path) -> None:
    trained.forge_here("export", "tiny@10", "--to", "tiny")
    url = f"file://{tmp_path}/models/tiny"
    assert "step-00000012" in trained.forge_here("deploy", "tiny", "--to", url)
    assert "step-00000010" in trained.forge_here("deploy", "./tiny", "--to", url)


def test_a_checkpoint_is_deployed_by_its_path(trained: Workplace, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/models/tiny"
    trained.forge_here("deploy", str(trained.checkpoints[-1]), "--to", url, "--dtype", "bf16")
    found = in_storage(url)
    assert found is not None
    assert json.loads(found["config.json"])["dtype"] == "bfloat16"


def test_a_dry_run_lists_what_would_go_and_changes_nothing(
    trained: Workplace, tmp_path: Path
) -> None:
    url = f"file://{tmp_path}/models/tiny"
    before = files_of(trained.path)
    output = trained.forge_here("deploy", "tiny", "--to", url, "--dry-run")
    assert files_of(trained.path) == before
    assert not (tmp_path / "models").exists()
    for name, content in exported(trained).items():
        assert f"  + {name}\n" in output
        assert name != "model.safetensors" or f"{len(content) / 1000:.1f} kB" in output
    trained.forge_here("deploy", "tiny@10", "--to", url)
    told = json.loads(trained.forge_here("deploy", "tiny", "--to", url, "--dry-run", "--json"))
    (outlook,) = told["to"].values()
    assert [name.partition("-0000")[0] for name in outlook["delete"]] == ["step"]
    trained.forge_here("deploy", "tiny", "--to", url)
    assert "there already" in trained.forge_here("deploy", "tiny", "--to", url, "--dry-run")


def test_the_table_of_the_recipe_serves_a_bare_command(trained: Workplace, tmp_path: Path) -> None:
    good, bad = f"file://{tmp_path}/models/tiny", f"file://{tmp_path}/file/tiny"
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with (trained.path / "recipe.toml").open("a", encoding="utf-8") as recipe:
        recipe.write(f'\n[deploy]\nto = ["{bad}", "{good}"]\n')
    table = ("--recipe", "recipe.toml")
    output = trained.forge_here("deploy", "tiny", *table, expect=1)
    assert "1 of 2 deployments failed" in output
    assert in_storage(good) == exported(trained)
    assert list(deployments_of(trained)) == [good]
    (tmp_path / "file").unlink()
    output = trained.forge_here("deploy", "tiny", *table)
    assert f"{good}: there already" in output
    assert in_storage(bad) == exported(trained)
    assert not trained.run.deploying.exists()


def deployments_of(workplace: Workplace) -> list[str]:
    body = json.loads(workplace.run.deployments.read_text(encoding="utf-8"))
    return [item["to"] for item in body["deployments"]]


def test_a_run_keeps_its_table_and_its_id(trained: Workplace, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/models/tiny"
    trained.train_here("--set", f'deploy.to=["{url}"]', "--extend", "14")
    kept = tomllib.loads(trained.run.recipe.read_text(encoding="utf-8"))
    assert kept["deploy"]["to"] == [url]
    trained.forge_here("deploy", "tiny")
    assert in_storage(url) == exported(trained)
    shown = trained.forge_here("runs", "show", "tiny")
    assert "Deployed to" in shown
    assert f"{url}  step " in shown


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('to=["hf://tiny"]', "write hf://OWNER/NAME"),
        ('to=["s3://acme/tiny/x y"]', ""),
        ('to=["hub://acme/tiny"]', "is not in a storage that is known here"),
        ('to=["mlflw:tiny"]', "did you mean 'mlflow:'?"),
        ('to=["tiny"]', "is not an address to deploy to"),
        ('to=["mlflow:a","mlflow:a"]', "'mlflow:a' is listed twice"),
        ('dtype="q8_0"', 'needs format "gguf"'),
        ('format="onnx"', "'hf', 'safetensors' or 'gguf'"),
        ('name="hf"', "the addresses in to say where it goes"),
        ("mlflow.aliases=[]", "did you mean 'alias'?"),
        ("privat=false", "did you mean 'private'?"),
    ],
)
def test_the_table_is_checked_with_the_recipe(
    trained: Workplace, setting: str, message: str
) -> None:
    arguments = ("recipe", "check", "recipe.toml", "--set", f"deploy.{setting}")
    assert message in trained.forge_here(*arguments, expect=2 if message else 0)


def test_without_an_address_nothing_is_exported(trained: Workplace) -> None:
    assert "nowhere to deploy to" in trained.forge_here("deploy", "tiny", expect=2)
    message = trained.forge_here("deploy", "tiny", "--to", "models/tiny", expect=2)
    assert "'models/tiny' is not an address to deploy to" in message
    assert not trained.run.deploying.exists()


def test_a_folder_of_something_else_is_left_alone(trained: Workplace, tmp_path: Path) -> None:
    other = tmp_path / "models" / "metadata.json"
    other.parent.mkdir()
    other.write_text('{"mine": 1}', encoding="utf-8")
    message = trained.forge_here("deploy", "tiny", "--to", f"file://{tmp_path}/models", expect=1)
    assert "is not of a deployment of llmforge" in message
    assert other.read_text(encoding="utf-8") == '{"mine": 1}'


@pytest.mark.parametrize("service", ["s3_url", "gcs_url"])
@pytest.mark.parametrize("archive", ["none", "tar.gz"])
def test_a_run_is_deployed_to_a_service(
    trained: Workplace, service: str, archive: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(service)
    arguments = ("--to", url, "--archive", archive)
    trained.forge_here("deploy", "tiny@10", *arguments)
    trained.forge_here("deploy", "tiny", *arguments)
    assert in_storage(url) == exported(trained)
    assert len(stored_names(url)) == 2  # metadata.json and one version
    assert "there already" in trained.forge_here("deploy", "tiny", *arguments)


def test_a_service_that_alters_files_is_noticed(
    trained: Workplace, s3: Server, s3_proxy: FaultProxy
) -> None:
    make_s3_bucket(s3, "altering")
    url = "s3://altering/models/tiny"
    trained.forge_here("deploy", "tiny@10", "--to", url)
    before = in_storage(url)
    s3_proxy.faults = lambda seen: (
        "alter" if seen.method == "PUT" and seen.path.endswith("config.json") else ""
    )
    message = trained.forge_here("deploy", "tiny", "--to", url, expect=1)
    assert "config.json is not what was sent, twice" in message
    assert in_storage(url) == before
    s3_proxy.faults = lambda _: ""
    trained.forge_here("deploy", "tiny", "--to", url)
    assert in_storage(url) == exported(trained)
