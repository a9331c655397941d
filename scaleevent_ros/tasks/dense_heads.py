"""Heads whose output is one map: the linear head, and the dense prediction head (DPT).

DPT fuses four resolutions to fine maps: Ranftl, Bochkovskiy and Koltun, "Vision Transformers for
Dense Prediction", ICCV 2021, section 3, as in Depth Anything V2 (Yang et al., NeurIPS 2024),
without batch norms. There, each resolution comes from another layer of the transformer. Here all
four come from the student's last features, the only ones that pretraining matches to the teacher's:
Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection", ECCV 2022, section
3, find that a pyramid from the last map is as good as one from several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def to_pixels(values: Tensor, grid: tuple[int, int], stride: int, size: tuple[int, int]) -> Tensor:
    """Resize maps bilinearly to the pixels that a grid of features covers, and crop the padding.

    A student pads its input at the right and the bottom to whole cells. So the grid covers
    ``grid * stride`` pixels, of which the first ``size`` are the input's.

    Args:
        values: Maps over the whole grid, ``[B, C, *, *]``, at any resolution.
        grid: Height and width h, w of the features.
        stride: Pixels per feature s.
        size: Height and width H, W of the student's input, at most h * s and w * s.

    Returns:
        ``[B, C, H, W]``.
    """
    padded = (grid[0] * stride, grid[1] * stride)
    if tuple(values.shape[-2:]) != padded:
        values = functional.interpolate(values, padded, mode="bilinear", align_corners=False)
    return values[..., : size[0], : size[1]]


class LinearSegmentation(nn.Module):
    """Batch norm and a 1x1 convolution, the head of a linear probe.

    Source: the linear evaluation of Oquab et al., "DINOv2", TMLR 2024, section 7.4. In eval mode
    the norm is affine, so that the head is linear. With it, one learning rate suits features of any
    scale.

    Args:
        width: Channels D of the features.
        stride: Pixels per feature.
        classes: Number of classes C.
    """

    def __init__(self, width: int, stride: int, classes: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm = nn.BatchNorm2d(width)
        self.classify = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute logits ``[B, C, H, W]`` from features ``[B, D, h, w]``; ``size`` is (H, W)."""
        logits = cast("Tensor", self.classify(self.norm(features)))
        return to_pixels(logits, (features.shape[-2], features.shape[-1]), self.stride, size)


class DptDecoder(nn.Module):
    """Decoder from features on the student's grid to features at eight times its resolution.

    Args:
        width: Channels D of the student's features.
        channels: Channels F of the result and of all intermediate maps.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(width, channels, kernel_size=1),
                    nn.ConvTranspose2d(channels, channels, kernel_size=4, stride=4),
                ),
                nn.Sequential(
                    nn.Conv2d(width, channels, kernel_size=1),
                    nn.ConvTranspose2d(channels, channels, kernel_size=2, stride=2),
                ),
                nn.Conv2d(width, channels, kernel_size=1),
                nn.Conv2d(width, channels, kernel_size=3, stride=2, padding=1),
            ]
        )
        self.gather = nn.ModuleList(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False) for _ in self.levels
        )
        self.fuse = nn.ModuleList(
            _Fusion(channels, merges=level + 1 < len(self.levels))
            for level in range(len(self.levels))
        )

    def forward(self, features: Tensor) -> Tensor:
        """Decode ``[B, D, h, w]`` to ``[B, F, 8 * h, 8 * w]``."""
        maps = [
            gather(level(features)) for level, gather in zip(self.levels, self.gather, strict=True)
        ]
        merged: Tensor | None = None
        for level in reversed(range(len(maps))):
            finer = maps[level - 1].shape[-2:] if level else [8 * n for n in features.shape[-2:]]
            merged = self.fuse[level](maps[level], merged, (finer[0], finer[1]))
        assert merged is not None
        return merged


class _Fusion(nn.Module):
    """Fusion block: a resolution and the coarser result, upsampled to the next finer one."""

    def __init__(self, channels: int, *, merges: bool) -> None:
        super().__init__()
        self.enter = _Residual(channels) if merges else nn.Identity()
        self.refine = _Residual(channels)
        self.leave = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, fine: Tensor, coarse: Tensor | None, size: tuple[int, int]) -> Tensor:
        merged = self.enter(fine) if coarse is None else self.enter(fine) + coarse
        merged = functional.interpolate(
            self.refine(merged), size, mode="bilinear", align_corners=False
        )
        return cast("Tensor", self.leave(merged))


class _Residual(nn.Module):
    """Residual unit of two convolutions, with activation first (He et al., ECCV 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.second(self.first(x.relu()).relu()))


class DptSegmentation(nn.Module):
    """Segmentation head with a `DptDecoder`.

    Args:
        width: Channels D of the features.
        stride: Pixels per feature.
        classes: Number of classes C.
        channels: Channels of the decoder.
    """

    def __init__(self, width: int, stride: int, classes: int, channels: int = 128) -> None:
        super().__init__()
        self.stride = stride
        self.decoder = DptDecoder(width, channels)
        self.predict = nn.Sequential(
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, classes, kernel_size=1),
        )

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute logits ``[B, C, H, W]`` from features ``[B, D, h, w]``; ``size`` is (H, W)."""
        logits = self.predict(self.decoder(features))
        return to_pixels(logits, (features.shape[-2], features.shape[-1]), self.stride, size)


class DptDepth(nn.Module):
    """Head for metric depth with a `DptDecoder`: a sigmoid times the maximum depth.

    Source: the metric models of Depth Anything V2.

    Args:
        width: Channels D of the features.
        stride: Pixels per feature.
        maximum: Largest depth that can be predicted, in metres.
        channels: Channels of the decoder.
    """

    def __init__(self, width: int, stride: int, maximum: float, channels: int = 128) -> None:
        super().__init__()
        self.stride = stride
        self.maximum = maximum
        self.decoder = DptDecoder(width, channels)
        self.halve = nn.Conv2d(channels, channels // 2, kernel_size=3, padding=1)
        self.predict = nn.Sequential(
            nn.Conv2d(channels // 2, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, kernel_size=1),
        )

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Compute depth ``[B, 1, H, W]`` in m from features ``[B, D, h, w]``; ``size`` is (H, W).

        The result is float32 for any features: at 80 m, bfloat16 has a resolution of only 0.25 m.
        """
        grid = (features.shape[-2], features.shape[-1])
        whole = (grid[0] * self.stride, grid[1] * self.stride)
        fine = to_pixels(self.halve(self.decoder(features)), grid, self.stride, whole)
        # Cropped last, so that convolutions see the padded input's border, not the size's.
        depth = cast("Tensor", self.predict(fine))[..., : size[0], : size[1]]
        return depth.float().sigmoid() * self.maximum
