"""Model folders with something missing or foreign: refused before use, or read as they are meant.

Each case damages a whole folder of a tiny pipeline; the network is never random in part.
"""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from packaging.version import Version
from safetensors.torch import load_file, save_file

from erase.cli.main import main
from erase.errors import InputError
from erase.files import read_json, write_json
from erase.models.loading import load_pipeline, resolve, save_pipeline
from erase.tasks.families import family_of
from tests.tiny_pipelines import PIPELINES

NETWORK, TEXT = "diffusion_pytorch_model.safetensors", "model.safetensors"
FAMILIES = {"sd": "sd1", "sdxl": "sdxl", "sd3": "sd3", "ddpm": "ddpm"}
Damage = Callable[[Path], None]
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sound folder of each family."""
    root = tmp_path_factory.mktemp("whole")
    for name, pipeline in FAMILIES.items():
        save_pipeline(PIPELINES[pipeline](), root / name, torch.float32)
    return {name: root / name for name in FAMILIES}


def without(*names: str) -> Damage:
    def damage(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = load_file(folder / file)
        change(content)
        save_file(content, folder / file, metadata={"format": "pt"})

    return damage


def lacks(file: str, name: str) -> Damage:
    return tensors(file, lambda content: content.pop(name))


def has(file: str, name: str) -> Damage:
    return tensors(file, lambda content: content.update({name: torch.ones(3)}))


def setting(file: str, **changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        content = {**read_json(folder / file), **changes}
        write_json(folder / file, {k: v for k, v in content.items() if v is not ...})

    return damage


def index(**changes: Any) -> Damage:
    return setting("model_index.json", **changes)


def vocabulary(words: int) -> Damage:
    """Keep the first words of the vocabulary in `tokenizer.json`, and no other file."""

    def damage(folder: Path) -> None:
        without("tokenizer/vocab.json", "tokenizer/merges.txt")(folder)
        file = folder / "tokenizer" / "tokenizer.json"
        content = read_json(file)
        content["model"]["vocab"] = dict(list(content["model"]["vocab"].items())[:words])
        content["model"]["merges"] = []
        file.write_text(json.dumps(content))

    return damage


def pickled(folder: Path) -> None:
    (folder / "vae" / NETWORK).rename(folder / "vae" / "diffusion_pytorch_model.bin")


def channels(count: int) -> Damage:
    def damage(folder: Path) -> None:
        setting("unet/config.json", in_channels=count)(folder)
        wide = torch.zeros(8, count, 3, 3)
        tensors(f"unet/{NETWORK}", lambda content: content.update({"conv_in.weight": wide}))(folder)

    return damage


WORDS = ("tokenizer/tokenizer.json", "tokenizer/vocab.json", "tokenizer/merges.txt")
EDGE = "text_model.final_layer_norm.bias"
REFUSED: list[tuple[str, Damage, str]] = [
    (
        "sd",
        without(*WORDS),
        "tokenizer has no vocabulary: tokenizer.json and vocab.json and",
    ),
    ("sd", without(WORDS[0], WORDS[2]), "tokenizer has no vocabulary: .* merges.txt is missing"),
    ("sd", vocabulary(0), "tokenizer"),
    ("sd", vocabulary(200), "tokenizer"),
    ("sd", without("tokenizer"), "tokenizer is missing"),
    ("sd", without("vae"), "vae is missing"),
    ("sd", without("scheduler"), "scheduler is missing"),
    ("sd", without(f"unet/{NETWORK}"), "unet/.*safetensors is missing"),
    ("sd", without("text_encoder/config.json"), "text_encoder"),
    ("sd", pickled, "vae/.*safetensors is missing"),
    ("sd", index(vae=[None, None]), "vae is missing"),
    ("sd", index(tokenizer=[None, None]), "tokenizer is missing"),
    ("sd", index(scheduler=[None, None]), "scheduler is missing"),
    ("sd", index(unet=...), "unet is missing"),
    ("sd", lacks(f"text_encoder/{TEXT}", EDGE), "text_encoder lacks .*final_layer_norm.bias"),
    ("sd", has(f"text_encoder/{TEXT}", "more"), "text_encoder holds .* more"),
    ("sd", has(f"text_encoder/{TEXT}", EDGE), "text_encoder has .* shape: .*final_layer_norm.bias"),
    ("sd", lacks(f"unet/{NETWORK}", "conv_in.bias"), "unet lacks conv_in.bias"),
    ("sd", has(f"unet/{NETWORK}", "more"), "unet holds .* more"),
    ("sd", has(f"unet/{NETWORK}", "conv_in.bias"), "conv_in.bias"),
    ("sd", lacks(f"vae/{NETWORK}", "quant_conv.bias"), "vae lacks quant_conv.bias"),
    ("sd", has(f"vae/{NETWORK}", "more"), "vae holds .* more"),
    ("sd", channels(9), "unet takes 9 channels, as for inpainting"),
    ("sd", channels(8), "unet takes 8 channels"),
    ("sd", setting("unet/config.json", cross_attention_dim=24), "texts of width 24"),
    ("sdxl", index(tokenizer_2=[None, None]), "tokenizer_2 is missing"),
    ("sdxl", index(text_encoder=[None, None]), "text_encoder is missing"),
    ("sdxl", without("tokenizer_2/tokenizer.json", "tokenizer_2/vocab.json"), "tokenizer_2 has no"),
    ("sdxl", lacks(f"text_encoder_2/{TEXT}", "text_projection.weight"), "text_encoder_2 lacks"),
    ("sdxl", has(f"text_encoder_2/{TEXT}", "more"), "text_encoder_2 holds"),
    ("sdxl", channels(9), "unet takes 9 channels"),
    ("sd3", lacks(f"transformer/{NETWORK}", "proj_out.bias"), "transformer lacks proj_out.bias"),
    ("sd3", has(f"transformer/{NETWORK}", "more"), "transformer holds .* more"),
    ("sd3", lacks(f"text_encoder_2/{TEXT}", EDGE), "text_encoder_2 lacks"),
    ("sd3", index(tokenizer_3=["transformers", "T5Tokenizer"]), "text_encoder_3 is missing"),
    ("ddpm", lacks(f"unet/{NETWORK}", "class_embedding.weight"), "unet lacks class_embedding"),
    ("ddpm", has(f"unet/{NETWORK}", "more"), "unet holds .* more"),
    ("ddpm", without("scheduler/scheduler_config.json"), "scheduler"),
    ("ddpm", index(unet=[None, None]), "unet is missing"),
    ("sd", setting("unet/config.json", block_out_channels="wide"), "cannot be loaded"),
    ("sd", setting("vae/config.json", layers_per_block=None), "cannot be loaded"),
    ("sd", setting("text_encoder/config.json", hidden_act="none"), "cannot be loaded"),
]


@pytest.mark.fault("damaged model folder")
@pytest.mark.parametrize(("family", "damage", "message"), REFUSED)
def test_a_folder_that_is_not_whole_is_refused(
    whole: dict[str, Path], tmp_path: Path, family: str, damage: Damage, message: str
) -> None:
    folder = Path(shutil.copytree(whole[family], tmp_path / "model"))
    damage(folder)
    with pytest.raises(InputError, match=message) as refused:
        load_pipeline(resolve(str(folder)))
    assert "\n" not in refused.value.message
    assert refused.value.remedy


@pytest.mark.fault("damaged model folder")
@pytest.mark.parametrize("command", ["concept", "class", "evaluate"])
def test_commands_refuse_it_before_they_render(
    whole: dict[str, Path], tmp_path: Path, command: str
) -> None:
    folder = Path(shutil.copytree(whole["sd"], tmp_path / "model"))
    without(*WORDS)(folder)
    options = {
        "concept": ["--concept", "dog"],
        "class": ["--target", "three"],
        "evaluate": ["--suite", "digits", "--target", "three"],
    }
    given = [command, "--model", str(folder), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*given, *options[command]])
    assert result.exit_code == 2, result.output
    assert "has no vocabulary" in result.output
    assert not (tmp_path / "out").exists()


def same_weights(folder: Path, sound: Path) -> Any:
    """The pipeline of a folder, whose networks have the values of the sound one's."""
    loaded, expected = load_pipeline(resolve(str(folder))), load_pipeline(resolve(str(sound)))
    assert type(loaded) is type(expected)
    for name, part in expected.components.items():
        if isinstance(part, torch.nn.Module):
            state = getattr(loaded, name).state_dict()
            for key, tensor in part.state_dict().items():
                assert torch.equal(state[key], tensor), f"{name}.{key}"
    return loaded


def bare(content: dict[str, torch.Tensor]) -> None:
    for name in list(content):
        content[name.removeprefix("text_model.")] = content.pop(name)


def whole_clip(content: dict[str, torch.Tensor]) -> None:
    content["text_model.embeddings.position_ids"] = torch.arange(16)[None]
    content |= {"logit_scale": torch.ones(1), "vision_model.post_layernorm.bias": torch.ones(1)}
    content |= {f"{part}_projection.weight": torch.ones(1) for part in ("text", "visual")}


def half_vae(folder: Path) -> None:
    """`vae` in fp16 files alone, and `unet` in both, the half one with other values."""
    half = {name: t.half() for name, t in load_file(folder / "vae" / NETWORK).items()}
    (folder / "vae" / NETWORK).unlink()
    marked = NETWORK.replace(".", ".fp16.")
    save_file(half, folder / "vae" / marked, metadata={"format": "pt"})
    half = {name: t.half() for name, t in load_file(folder / "unet" / NETWORK).items()}
    save_file(half, folder / "unet" / marked, metadata={"format": "pt"})


READ: list[tuple[str, Damage]] = [
    ("sd", tensors(f"text_encoder/{TEXT}", whole_clip)),
    ("sd", setting("unet/config.json", sample_size=[8, 8])),
    ("sdxl", setting("unet/config.json", sample_size=[8, 8])),
    ("sd3", setting("transformer/config.json", sample_size=[8, 8])),
    ("ddpm", setting("unet/config.json", sample_size=[16, 16])),
    ("sd", setting("tokenizer/tokenizer_config.json", model_max_length=...)),
    ("sd", setting("tokenizer/tokenizer_config.json", model_max_length=77)),
    ("sdxl", setting("tokenizer_2/tokenizer_config.json", model_max_length=...)),
    ("sd", without("tokenizer/vocab.json", "tokenizer/merges.txt")),
    ("sd", without("tokenizer/tokenizer.json")),
    *[
        (family, index(_class_name=f"StableDiffusion{version}{use}Pipeline"))
        for family, version in (("sd", ""), ("sdxl", "XL"), ("sd3", "3"))
        for use in ("Img2Img", "Inpaint")
    ],
]


@pytest.mark.fault("unusual model folder")
@pytest.mark.parametrize(("family", "change"), READ)
def test_a_folder_that_is_only_unusual_is_read_whole(
    whole: dict[str, Path], tmp_path: Path, family: str, change: Damage
) -> None:
    folder = Path(shutil.copytree(whole[family], tmp_path / "model"))
    change(folder)
    source = resolve(str(folder))
    source.check()
    assert source.resolution() == 16
    loaded = same_weights(folder, whole[family])
    if family == "sd":
        call: dict[str, Any] = {"num_inference_steps": 1, "output_type": "np"}
        images = loaded("a photo of a cat", generator=torch.Generator().manual_seed(0), **call)
        sound = load_pipeline(resolve(str(whole["sd"])))
        expected = sound("a photo of a cat", generator=torch.Generator().manual_seed(0), **call)
        assert (images.images == expected.images).all()


@pytest.mark.fault("unusual model folder")
def test_bare_names_of_a_text_encoder_are_read_where_transformers_knows_them(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole["sd"], tmp_path / "model"))
    tensors(f"text_encoder/{TEXT}", bare)(folder)
    if Version(version("transformers")) >= Version("5.6"):
        same_weights(folder, whole["sd"])
    else:
        with pytest.raises(InputError, match="text_encoder lacks"):
            load_pipeline(resolve(str(folder)))


@pytest.mark.fault("unusual model folder")
@pytest.mark.parametrize("family", ["sd", "sdxl", "sd3"])
def test_what_is_saved_has_the_names_and_files_that_every_reader_knows(
    whole: dict[str, Path], family: str
) -> None:
    for name in ("text_encoder", "text_encoder_2"):
        if family == "sd" and name != "text_encoder":
            continue
        names = load_file(whole[family] / name / TEXT)
        assert all(n.startswith(("text_model.", "text_projection.")) for n in names)
        tokenizer = whole[family] / name.replace("text_encoder", "tokenizer")
        words = read_json(tokenizer / "tokenizer.json")["model"]
        assert read_json(tokenizer / "vocab.json") == words["vocab"]
        merges = (tokenizer / "merges.txt").read_text().splitlines()[1:]
        assert merges == [" ".join(pair) for pair in words["merges"]]
        special = read_json(tokenizer / "special_tokens_map.json")
        assert special["eos_token"] == "<|endoftext|>"


@pytest.mark.fault("unusual model folder")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_folder_does_not_say_where_its_base_lay(
    whole: dict[str, Path], tmp_path: Path, family: str
) -> None:
    save_pipeline(load_pipeline(resolve(str(whole[family]))), tmp_path / "saved", torch.float32)
    for file in (tmp_path / "saved").rglob("*.json"):
        assert str(whole[family]) not in file.read_text(), file
    same_weights(tmp_path / "saved", whole[family])


@pytest.mark.fault("unusual model folder")
def test_half_files_of_one_part_leave_the_others_in_full_precision(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole["sd"], tmp_path / "model"))
    half_vae(folder)
    loaded = load_pipeline(resolve(str(folder)))
    for name, tensor in load_file(whole["sd"] / "unet" / NETWORK).items():
        assert torch.equal(loaded.unet.state_dict()[name], tensor), name
    assert loaded.vae.dtype == torch.float32


@pytest.mark.fault("unusual model folder")
@pytest.mark.parametrize("side", [[8, 4], None, "8", 0, [8, 8.5], []])
def test_a_size_that_is_not_square_is_refused(
    whole: dict[str, Path], tmp_path: Path, side: Any
) -> None:
    folder = Path(shutil.copytree(whole["sd"], tmp_path / "model"))
    setting("unet/config.json", sample_size=side)(folder)
    with pytest.raises(InputError, match="sample_size"):
        resolve(str(folder)).resolution()


SCHEDULERS: list[tuple[str, dict[str, Any], bool]] = [
    ("sd", {"_class_name": "EDMEulerScheduler"}, False),
    ("sdxl", {"_class_name": "EDMDPMSolverMultistepScheduler"}, False),
    ("sd", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, False),
    ("sdxl", {"_class_name": "FlowMatchHeunDiscreteScheduler"}, False),
    ("sd", {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, False),
    ("sdxl", {"_class_name": "EulerDiscreteScheduler", "prediction_type": "flow"}, False),
    (
        "sd",
        {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"},
        False,
    ),
    ("sd", {"_class_name": "NoSuchScheduler"}, False),
    ("sd3", {"_class_name": "DDIMScheduler"}, False),
    ("sd3", {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True}, False),
    ("ddpm", {"_class_name": "EDMEulerScheduler"}, False),
    *[
        ("sd", {"_class_name": f"{name}Scheduler"}, True)
        for name in (
            "DDPM",
            "DDIM",
            "PNDM",
            "EulerDiscrete",
            "EulerAncestralDiscrete",
            "HeunDiscrete",
            "KDPM2Discrete",
            "LCM",
            "TCD",
            "UniPCMultistep",
            "DPMSolverMultistep",
            "DEISMultistep",
        )
    ],
    ("sdxl", {"_class_name": "EulerDiscreteScheduler", "rescale_betas_zero_snr": True}, True),
    ("sd3", {"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 2.0}, True),
]


@pytest.mark.fault("foreign noise schedule")
@pytest.mark.parametrize(("family", "config", "fits"), SCHEDULERS)
def test_training_has_the_models_own_noise_schedule_or_none(
    whole: dict[str, Path], tmp_path: Path, family: str, config: dict[str, Any], fits: bool
) -> None:
    import diffusers

    folder = Path(shutil.copytree(whole[family], tmp_path / "model"))
    # The file says no β: the class's own are meant.
    write_json(folder / "scheduler" / "scheduler_config.json", config)
    source = resolve(str(folder))
    if not fits:
        with pytest.raises(InputError, match=r"chedule"):
            family_of(source).stored_schedule(source)
        return
    training = family_of(source).stored_schedule(source)
    kind = config["_class_name"]
    own = getattr(diffusers, kind)(**{k: v for k, v in config.items() if k != "_class_name"})
    name = "sigmas" if family == "sd3" else "alphas_cumprod"
    torch.testing.assert_close(getattr(training, name), getattr(own, name), rtol=0, atol=1e-6)


@pytest.mark.fault("foreign noise schedule")
@pytest.mark.parametrize("command", ["concept", "evaluate"])
def test_commands_refuse_a_foreign_schedule_before_they_render(
    whole: dict[str, Path], tmp_path: Path, command: str
) -> None:
    folder = Path(shutil.copytree(whole["sd"], tmp_path / "model"))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    write_json(scheduler, {"_class_name": "EDMEulerScheduler"})
    options = {
        "concept": ["--concept", "dog"],
        "evaluate": ["--suite", "digits", "--target", "three", "--scheduler", "DDIMScheduler"],
    }
    given = [command, "--model", str(folder), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, [*given, *options[command]])
    assert result.exit_code == 2, result.output
    assert "EDMEulerScheduler" in result.output
    assert not (tmp_path / "out").exists()
