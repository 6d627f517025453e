"""How long the commands for SD-1.4 take on a card: an estimate from the number of operations.

    python -m benchmarks.operations

Counts the floating-point operations of SD-1.4's UNet and VAE (512 pixels, no weights needed), adds
up what the commands' defaults ask for, and divides by a share of what a card's data sheet states
for dense bf16. The share is an assumption, so these times are for planning, not results.
"""

from __future__ import annotations

import click

CARDS = {"RTX 3090": 71e12, "RTX 4090": 165e12, "A100": 312e12, "H100 SXM": 989e12}
"""Operations a second, dense bf16 with fp32 sums, as the vendor states them."""


def counted() -> tuple[float, float, float]:
    """Operations for one image of SD-1.4: UNet forward, UNet forward and backward, VAE decoding."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torch.utils.flop_counter import FlopCounterMode

    from erase.models.known import known_source

    def count(run: object) -> float:
        with FlopCounterMode(display=False) as counter:
            run()  # type: ignore[operator]
        return float(counter.get_total_flops())

    source = known_source("sd-1.4")
    assert source is not None
    known = source.path
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(known / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(known / "vae"))
        latents = torch.randn(1, unet.config.in_channels, 64, 64)
        inputs = latents, torch.tensor([1]), torch.randn(1, 77, unet.config.cross_attention_dim)
        return (
            count(lambda: unet(*inputs)),
            count(lambda: unet(*inputs).sample.sum().backward()),
            count(lambda: vae.decode(latents)),
        )


@click.command()
@click.option("--share", default=0.35, show_default=True, help="Share of the peak that is reached.")
@click.option("--prompts", default=4702, show_default=True, help="Prompts to evaluate (I2P's).")
def main(share: float, prompts: int) -> None:
    """Print minutes by command and card."""
    from erase.config.recipes import LARGE

    forward, both, decode = counted()
    click.echo(
        f"SD-1.4, one image of 512 pixels, in 1e12 operations: UNet {forward / 1e12:.2f},"
        f" with its backward pass {both / 1e12:.2f}, VAE decoding {decode / 1e12:.2f}"
    )
    image = 2 * LARGE["render_steps"] * forward + decode  # two forward passes: with guidance
    images = LARGE["num_forget_images"] + LARGE["num_retain_images"]
    # A step takes gradients on the retain and the forget batch, a forward pass for the anchor's
    # target, and LUR one gradient on the retain batch more.
    batch = LARGE["train_batch_size"]
    lur_b = LARGE["max_train_steps"] * batch * (2 * both + forward)
    work = {
        f"rendering {images} images": images * image,
        f"{LARGE['max_train_steps']} steps of LUR": lur_b + LARGE["max_train_steps"] * batch * both,
        f"{LARGE['max_train_steps']} steps of LUR-b": lur_b,
        f"evaluating {prompts} prompts on two models": 2 * prompts * image,
    }
    click.echo(f"minutes at {share:.0%} of the card's dense bf16 peak (estimates):")
    click.echo(f"{'':44}" + "".join(f"{card:>10}" for card in CARDS))
    for what, operations in work.items():
        minutes = (operations / (peak * share) / 60 for peak in CARDS.values())
        click.echo(f"{what:44}" + "".join(f"{number:10.1f}" for number in minutes))


if __name__ == "__main__":
    main()
