"""The commands that look at what is there: `doctor`, `licenses` and `models`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import AutoencoderDC
from huggingface_hub import constants

from realcustom import __version__
from realcustom.apps import doctor
from realcustom.apps.cli import main
from realcustom.errors import InputError
from realcustom.finding import embedded_folder
from realcustom.integrity import make_manifest
from realcustom.training.package import PackageRecipe, package
from realcustom.versions import Dependency

MODEL = embedded_folder("stickers")


@pytest.fixture
def cached(model, tmp_path, monkeypatch):
    """The tiny model in a local cache of the hub, as owner/tiny; its files are links, as there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--owner--tiny"
    shutil.copytree(model, repository / "blobs")
    for blob in sorted(path for path in (repository / "blobs").rglob("*") if path.is_file()):
        link = repository / "snapshots" / ("a" * 40) / blob.relative_to(repository / "blobs")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    return repository / "snapshots" / ("a" * 40)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = main(list(arguments))
        return code, capsys.readouterr()

    return run


def test_only_the_doctor_needs_torch():
    program = (
        "import sys",
        "from realcustom.apps.cli import main",
        "main(['models']), main(['licenses'])",
        "try: main(['doctor', '--help'])",
        "except SystemExit: pass",
        "sys.exit('torch' in sys.modules)",
    )
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_manifest_that_ships_tells_the_files_that_ship():
    told = json.loads((MODEL / "manifest.json").read_text())
    anew = "from pathlib import Path; from realcustom.integrity import write_manifest; write_manifest(Path(...))"
    assert told == make_manifest(MODEL), f"a file has changed; if it was meant to: {anew}"


def test_a_packaged_model_has_a_manifest(model, tmp_path, run):
    package(PackageRecipe(output_dir=tmp_path / "packaged", base=model))
    told = json.loads((tmp_path / "packaged" / "manifest.json").read_text())
    assert {"model_index.json", "unet/diffusion_pytorch_model.safetensors"} <= told.keys()
    assert run("doctor", "--model", str(tmp_path / "packaged"))[0] == 0


def test_a_model_is_packaged_with_another_decoder_of_the_same_latents(model, tmp_path):
    own = AutoencoderDC.from_pretrained(model / "vae")
    for parameter in own.decoder.parameters():
        parameter.data *= 2
    own.half().save_pretrained(tmp_path / "further")
    package(PackageRecipe(output_dir=tmp_path / "packaged", base=model, autoencoder=tmp_path / "further"))
    packaged = AutoencoderDC.from_pretrained(tmp_path / "packaged" / "vae")
    assert all(
        torch.equal(one, packaged.decoder.state_dict()[name].half()) for name, one in own.decoder.state_dict().items()
    )


@pytest.mark.parametrize("change", ["encoder", "scale"])
def test_a_decoder_of_other_latents_is_refused(model, tmp_path, change):
    other = AutoencoderDC.from_pretrained(model / "vae")
    if change == "encoder":
        next(other.encoder.parameters()).data += 0.1
    else:
        other.register_to_config(scaling_factor=0.5)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="has other latents than the base's own"):
        package(PackageRecipe(output_dir=tmp_path / "packaged", base=model, autoencoder=tmp_path / "other"))
    assert not (tmp_path / "packaged").exists()


class TestDoctor:
    def test_the_embedded_model_is_whole(self, run):
        code, said = run("doctor")
        assert code == 0, said.err
        assert said.out.startswith(f"realcustom {__version__}, Python 3.")
        assert f"model stickers (embedded), looked for in {MODEL}" in said.out
        assert "taken if no --device is named" in said.out
        assert said.out.endswith("\n\neverything is as it must be\n")

    def test_json_is_the_only_thing_on_standard_output(self, run):
        code, said = run("doctor", "--json")
        about = json.loads(said.out)
        assert (code, about["ok"], about["problems"]) == (0, True, [])
        assert {"torch", "diffusers", "transformers"} <= {one["name"] for one in about["packages"] if one["met"]}
        assert [one["name"] for one in about["devices"]] == ["cpu", "cuda", "mps"]
        assert sum(one["taken"] for one in about["devices"]) == 1
        assert about["devices"][0]["detail"].endswith(("thread", "threads"))
        files = {one["file"]: one for one in about["model"]["files"]}
        assert files.keys() >= {"manifest.json", "licenses.json", "adapter/config.json"}
        assert files["adapter/config.json"]["bytes"] == (MODEL / "adapter" / "config.json").stat().st_size
        assert {one["state"] for one in files.values()} == {"whole"}

    def test_a_broken_folder_fails_with_one_line_for_each_problem(self, model, tmp_path, run):
        folder = tmp_path / "broken"
        shutil.copytree(model, folder)
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        (folder / "vae" / "config.json").unlink()
        (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"pickled")
        code, said = run("doctor", "--model", str(folder))
        assert code == 1
        assert said.err == "realcustom: 2 things are wrong\n"
        lines = said.out.split("\n\nwrong\n")[1].splitlines()
        assert len(lines) == 2
        assert all("; repair it with: hf download ID" in line for line in lines)
        assert f"{weights} is cut off" in said.out
        (pickled,) = [line for line in said.out.splitlines() if "model.bin" in line]
        assert pickled.endswith("not read")

    def test_a_hub_model_is_looked_up_in_the_cache(self, cached, run):
        assert run("doctor", "--model", "owner/tiny")[0] == 0
        (cached / "unet" / "config.json").resolve().unlink()  # as an interrupted download leaves it
        code, said = run("doctor", "--model", "owner/tiny", "--json")
        assert code == 1
        (problem,) = json.loads(said.out)["problems"]
        assert problem["what"] == f"{cached / 'unet' / 'config.json'} is missing"
        assert problem["repair"] == "hf download owner/tiny"

    def test_a_hub_model_that_is_not_in_the_cache_is_wrong_input(self, cached, run):
        code, said = run("doctor", "--model", "owner/absent")
        assert (code, said.out) == (2, "")
        assert said.err.endswith("; fetch it with: hf download owner/absent\n")

    def test_what_can_be_no_model_is_wrong_input(self, run):
        code, said = run("doctor", "--model", "stickres")
        assert (code, said.out) == (2, "")
        assert "Did you mean 'stickers'?" in said.err

    def test_a_version_out_of_its_range_is_a_problem(self, monkeypatch, run):
        packages = [Dependency("torch", ">=99", "2.6"), Dependency("einops", ">=0.8", None)]
        monkeypatch.setattr(doctor, "dependencies", lambda: packages)
        code, said = run("doctor")
        assert code == 1
        assert 'torch 2.6 is not >=99; repair it with: pip install --upgrade "torch>=99"' in said.out
        assert 'einops (not installed) is not >=0.8; repair it with: pip install --upgrade "einops>=0.8"' in said.out

    def test_a_torch_that_cannot_be_loaded_is_a_problem(self, monkeypatch, run):
        monkeypatch.setitem(sys.modules, "torch", None)
        code, said = run("doctor", "--json")
        assert code == 1
        (problem,) = json.loads(said.out)["problems"]
        assert problem["what"].startswith("a run cannot start: ")
        assert problem["repair"].startswith("pip install --force-reinstall torch")


class TestLicenses:
    def test_code_weights_text_encoder_and_data_are_named(self, run):
        code, said = run("licenses")
        assert code == 0
        parts = [paragraph.split(":")[0] for paragraph in said.out.split("\n\n")]
        assert parts == ["code", "weights", "text encoder", *["data"] * 7]
        assert "Apache-2.0 AND CC-BY-4.0 AND MIT" in said.out

    def test_the_embedded_model_may_be_used_commercially(self, run):
        code, said = run("licenses", "--commercial")
        assert code == 0, said.err
        assert said.out.endswith("commercial use is allowed by all 10; what they ask for is said above\n")

    def test_json_is_the_only_thing_on_standard_output(self, run):
        code, said = run("licenses", "--commercial", "--json")
        about = json.loads(said.out)
        assert (code, about["model"], about["commercial"]) == (0, "stickers", True)
        assert about["entries"][0]["what"] == f"realcustom {__version__}"
        assert all(entry["license"] and entry["commercial"] and entry["asks"] for entry in about["entries"])

    def test_a_model_that_does_not_tell_is_unknown_and_so_not_allowed(self, model, run):
        code, said = run("licenses", "--model", str(model))
        assert code == 0
        assert "licence         unknown" in said.out
        code, said = run("licenses", "--model", str(model), "--commercial", "--json")
        assert code == 1
        assert json.loads(said.out)["commercial"] is None
        assert f"not known to be allowed by {model} (unknown)" in said.err

    def test_the_model_card_is_named(self, cached, run):
        assert "https://huggingface.co/owner/tiny" in run("licenses", "--model", "owner/tiny")[1].out

    def test_one_that_forbids_it_is_named(self, model, tmp_path, run):
        folder = tmp_path / "bound"
        shutil.copytree(model, folder)
        entries = [
            {"part": "weights", "what": "bound", "license": "MIT AND CC-BY-NC-4.0"},
            {"part": "data", "what": "free", "license": "CC0-1.0"},
            {"part": "data", "what": "odd", "license": "LicenseRef-odd"},
        ]
        (folder / "licenses.json").write_text(json.dumps({"entries": entries}))
        assert run("licenses", "--model", str(folder))[0] == 0
        code, said = run("licenses", "--model", str(folder), "--commercial")
        assert code == 1
        assert said.err == (
            "realcustom: commercial use is forbidden by bound (MIT AND CC-BY-NC-4.0), "
            "and not known to be allowed by odd (LicenseRef-odd)\n"
        )

    def test_a_model_that_is_not_here_is_wrong_input(self, cached, tmp_path, run):
        code, said = run("licenses", "--model", "owner/absent")
        assert (code, said.out) == (2, "")
        assert "hf download owner/absent --include '*.json' README.md" in said.err
        assert run("licenses", "--model", str(tmp_path))[0] == 2


class TestModels:
    def test_the_embedded_model_is_listed(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
        code, said = run("models")
        assert code == 0
        name, description, facts, folder = said.out.splitlines()
        assert name == "stickers"
        assert description.startswith("  The embedded model of realcustom")
        assert facts.startswith("  embedded, text and subject to picture, 128 x 128 pixels, ")
        assert folder.strip() == str(MODEL)

    def test_models_in_the_cache_are_listed(self, cached, run):
        code, said = run("models", "--json")
        assert code == 0
        stickers, tiny = json.loads(said.out)["models"]
        assert (stickers["name"], stickers["where"], stickers["pixels"]) == ("stickers", "embedded", 128)
        assert stickers["bytes"] == sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
        assert tiny["bytes"] > 0
        del tiny["bytes"]
        assert tiny == {
            "name": "owner/tiny", "where": "hub", "kind": "text and subject to picture", "pixels": 32,
            "description": "", "folder": str(cached),
        }  # fmt: skip
