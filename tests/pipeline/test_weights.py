"""Loading, staging and digesting weights: every source, real damage, a real (local) hub, and no network."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from pipeline.config import CommitteeConfig
from pipeline.teachers.committee import build_committee
from pipeline.teachers.hub import WeightsError, pretrained_file
from pipeline.teachers.spec import SPECS
from pipeline.teachers.weights import digest, load_network, stage_weights
from tests.pipeline.local_hub import LocalHub

# a miniature that timm knows pretrained weights for, by name
TINY = replace(SPECS["mini_clip"], name="tiny_clip", timm_id="vit_base_patch16_clip_224.laion2b")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, and nothing that answers at the hub's address."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def staged_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged")
    stage_weights(["mini_dinov2", "mini_sam"], folder, source="random:3")
    return folder


@pytest.fixture
def staged(staged_once, tmp_path):
    return Path(shutil.copytree(staged_once, tmp_path / "staged"))


def values_of(spec, weights):
    return load_network(spec, weights)[0].state_dict()


def published(spec):
    """A checkpoint as timm publishes it: our values, and the parts that the taps never reach."""
    return values_of(spec, "random:8") | {"head.weight": torch.ones(512, 64), "norm.bias": torch.ones(64)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_random_weights_are_a_function_of_name_and_seed_only():
    first = values_of(SPECS["mini_sam"], "random:0")
    torch.manual_seed(99)
    torch.rand(7)
    assert same(first, values_of(SPECS["mini_sam"], "random:0"))
    assert not same(first, values_of(SPECS["mini_sam"], "random:1"))
    renamed = replace(SPECS["mini_sam"], name="other_sam")
    assert not same(first, values_of(renamed, "random:0"))


def test_random_weights_are_the_same_everywhere_for_ever():
    """A cache made with random weights elsewhere, or with another torch or numpy, keeps its fingerprint."""
    found = {name: load_network(SPECS[name], "random:0")[1][:8] for name in SPECS if SPECS[name].is_mini}
    assert found == {"mini_dinov2": "f8dc3d08", "mini_clip": "033010ce", "mini_sam": "368d89b3"}


def test_random_weights_have_the_stated_deviations():
    state = values_of(SPECS["mini_dinov2"], "random:0")
    assert all((state[k] == 1).all() for k in state if k.endswith(("gamma", "norm1.weight", "norm2.weight")))
    assert state["blocks.0.mlp.fc1.weight"].std().item() == pytest.approx(0.02 * 4, rel=0.05)
    assert state["patch_embed.proj.weight"].std().item() == pytest.approx((3 * 588) ** -0.5, rel=0.05)
    assert state["pos_embed"].std().item() == pytest.approx(0.02, rel=0.05)
    assert abs(state["pos_embed"].mean().item()) < 0.002


def test_the_digest_sees_names_types_shapes_and_values():
    state = {"a": torch.arange(6.0), "b": torch.zeros(())}
    changes = [
        {"c": torch.arange(6.0), "b": torch.zeros(())},
        state | {"a": torch.arange(6.0).to(torch.float64)},
        state | {"a": torch.arange(6.0).view(2, 3)},
        state | {"a": torch.arange(6.0).to(torch.bfloat16)},
        state | {"b": -torch.zeros(())},
    ]
    assert len({digest(s) for s in [state, *changes]}) == 1 + len(changes)
    assert digest(dict(reversed(state.items()))) == digest(state)
    assert digest({"a": torch.arange(12.0)[::2] / 2, "b": torch.zeros(())}) == digest(state), (
        "strides are no value"
    )


def test_staged_weights_are_those_of_their_source(staged):
    for name in ("mini_dinov2", "mini_sam"):
        network, found = load_network(SPECS[name], str(staged))
        expected, digest_of_source = load_network(SPECS[name], "random:3")
        assert found == digest_of_source
        assert same(network.state_dict(), expected.state_dict())
        assert not any(p.requires_grad for p in network.parameters())
    config = CommitteeConfig(teachers=("mini_sam",), weights=str(staged))
    from_source = CommitteeConfig(teachers=("mini_sam",), weights="random:3")
    assert build_committee(config).identity("mini_sam") == build_committee(from_source).identity("mini_sam")


def test_staging_again_does_what_is_missing_and_nothing_more(staged):
    def stamps():
        return {p.name: p.stat().st_mtime_ns for p in staged.glob("*.safetensors")}

    before = stamps()
    found = stage_weights(["mini_dinov2", "mini_sam", "mini_clip"], staged, source="random:3")
    assert {name: stamps()[name] for name in before} == before
    assert set(found) == {"mini_dinov2", "mini_sam", "mini_clip"}
    assert {path.name for path in staged.iterdir()} == {f"{name}.safetensors" for name in found} | {
        "digests.json"
    }


def test_damage_is_refused_and_staged_again(staged, caplog):
    path = staged / "mini_sam.safetensors"
    good = path.read_bytes()
    for position in range(0, len(good), len(good) // 40):
        bad = bytearray(good)
        bad[position] ^= 0x10
        path.write_bytes(bad)
        with pytest.raises(
            WeightsError, match=r"mini_sam\.safetensors .*run `cutler weights .*staged` to stage it"
        ):
            load_network(SPECS["mini_sam"], str(staged))
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(WeightsError, match="is damaged"):
        load_network(SPECS["mini_sam"], str(staged))
    stage_weights(["mini_sam"], staged, source="random:3")
    assert "staging mini_sam again" in caplog.text
    assert path.read_bytes() == good


def test_a_folder_that_lacks_something_says_what_to_do(staged, tmp_path):
    with pytest.raises(
        WeightsError, match=r"holds no weights of teacher mini_clip; run `cutler weights .*staged`"
    ):
        load_network(SPECS["mini_clip"], str(staged))
    with pytest.raises(
        WeightsError, match=r"weights = .*nowhere is no folder; use pretrained, random:<seed>, or run"
    ):
        load_network(SPECS["mini_clip"], str(tmp_path / "nowhere"))
    (staged / "digests.json").write_text("{")
    with pytest.raises(WeightsError, match=r"digests.json is damaged .*; delete it and run `cutler weights"):
        load_network(SPECS["mini_sam"], str(staged))


def test_weights_of_another_source_or_architecture_are_not_mixed(staged):
    with pytest.raises(
        WeightsError, match=r"holds random:3 weights of mini_sam, asked random:4; use a new folder"
    ):
        stage_weights(["mini_sam"], staged, source="random:4")
    entries = json.loads((staged / "digests.json").read_text())
    entries["mini_sam"]["timm_id"] = "samvit_large_patch16"
    (staged / "digests.json").write_text(json.dumps(entries))
    with pytest.raises(
        WeightsError, match=r"is samvit_large_patch16, asked samvit_base_patch16; .* new folder"
    ):
        load_network(SPECS["mini_sam"], str(staged))
    shutil.copy(staged / "mini_sam.safetensors", staged / "mini_dinov2.safetensors")
    with pytest.raises(WeightsError, match="has digest"):
        load_network(SPECS["mini_dinov2"], str(staged))


@pytest.mark.parametrize("weights", ["random:", "random:x", "random:-1", "random:1.5"])
def test_a_seed_is_a_whole_number(weights):
    with pytest.raises(WeightsError, match=r"has no whole number as its seed; use for example random:0"):
        load_network(SPECS["mini_sam"], weights)


def test_a_miniature_has_no_pretrained_weights(tmp_path):
    with pytest.raises(
        WeightsError, match=r"mini_sam has no pretrained weights; set committee\.weights=random:0"
    ):
        build_committee(CommitteeConfig(teachers=("mini_sam",)))
    with pytest.raises(WeightsError, match="mini_sam has no pretrained weights"):
        stage_weights(["mini_sam"], tmp_path)


def test_no_network_is_one_clear_line_and_quick(hub, tmp_path):
    start = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        build_committee(CommitteeConfig(teachers=("openai_clip_b16",)))
    message = str(caught.value)
    assert time.perf_counter() - start < 5
    assert "\n" not in message
    assert "teacher openai_clip_b16 (timm vit_base_patch16_clip_quickgelu_224.openai)" in message
    assert "ConnectError" in message or "ConnectionError" in message
    assert "run `cutler weights DIR` where there is a network and set committee.weights=DIR here" in message
    assert (
        "timm/vit_base_patch16_clip_224.openai as DIR/vit_base_patch16_clip_quickgelu_224.openai" in message
    )
    with pytest.raises(WeightsError, match="no weights from"):
        stage_weights(["dinov2_s14"], tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_supplied_file_is_staged_without_a_network(hub, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("pipeline.teachers.weights.spec_of", {TINY.name: TINY}.get)
    supplied = {key: value.to(dtype) for key, value in published(TINY).items()}
    save_file(supplied, tmp_path / f"{TINY.timm_id}.safetensors")
    found = stage_weights([TINY.name], tmp_path)[TINY.name]
    network, loaded = load_network(TINY, str(tmp_path))
    assert loaded == found
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())
    assert same(network.state_dict(), {key: supplied[key].float() for key in network.state_dict()})


def test_position_embeddings_of_a_published_file_are_resampled_by_timm(hub, tmp_path):
    larger = replace(TINY, native=192, build=tuple((dict(TINY.build) | {"img_size": 192}).items()))
    path = tmp_path / f"{TINY.timm_id}.pth"
    torch.save(published(larger), path)
    assert pretrained_file(TINY, tmp_path) == path
    cached = hub / f"models--timm--{TINY.timm_id}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    save_file(published(larger), cached / "snapshots" / "abc" / "model.safetensors")
    state = values_of(TINY, "pretrained")
    assert state["pos_embed"].shape == (1, 65, 64)
    assert torch.equal(state["pos_embed"][:, :1], published(larger)["pos_embed"][:, :1])


def test_a_file_that_does_not_fit_is_named(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.teachers.weights.spec_of", {TINY.name: TINY}.get)
    path = tmp_path / f"{TINY.timm_id}.safetensors"
    whole = published(TINY)
    for wrong, named in (
        (
            {k: v for k, v in whole.items() if k != "blocks.2.mlp.fc1.bias"},
            r"blocks\.2\.mlp\.fc1\.bias .*got none",
        ),
        (whole | {"blocks.4.norm1.bias": torch.ones(64)}, r"blocks\.4\.norm1\.bias \(asked none"),
        (whole | {"norm_pre.bias": torch.ones(65)}, r"norm_pre\.bias \(asked \(64,\), got \(65,\)\)"),
    ):
        save_file(wrong, path)
        with pytest.raises(WeightsError, match=rf"1 tensors differ, first {named}.*; supply the checkpoint"):
            stage_weights([TINY.name], tmp_path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(
        WeightsError, match=r"is no checkpoint of vit_base_patch16_clip_224\.laion2b .*fetch it again"
    ):
        stage_weights([TINY.name], tmp_path)
    assert not (tmp_path / "digests.json").exists()


def test_a_download_is_loaded_and_then_cached(hub, tmp_path, monkeypatch):
    save_file(published(TINY), tmp_path / "served")
    with LocalHub((tmp_path / "served").read_bytes()) as (address, requests):
        monkeypatch.setattr(constants, "ENDPOINT", address)
        path = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + path)
        downloaded = values_of(TINY, "pretrained")
        assert requests
        seen = len(requests)
        again = values_of(TINY, "pretrained")
        assert len(requests) == seen, "what the hub's cache holds needs no network"
    wanted = load_file(tmp_path / "served")
    assert same(downloaded, {key: wanted[key] for key in downloaded})
    assert same(downloaded, again)
