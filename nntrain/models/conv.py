"""Convolutional models for small images, of 8x8 to 64x64 pixels."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from nntrain.models.inits import Activation, activation_gain, kaiming, make_activation


def conv_block(
    n_in: int, n_out: int, *, kernel_size: int = 3, stride: int = 1, act: Activation = "relu"
) -> nn.Sequential:
    """Makes a block of the modules `conv`, `norm` and `act`.

    It maps `(batch, n_in, h, w)` to `(batch, n_out, h / stride, w / stride)`, rounded up.
    """
    return nn.Sequential(
        OrderedDict(
            conv=_conv(n_in, n_out, kernel_size, stride),
            norm=nn.BatchNorm2d(n_out),
            act=make_activation(act),
        )
    )


def cnn(
    n_in: int = 1,
    n_out: int = 10,
    channels: Sequence[int] = (16, 32, 64),
    *,
    kernel_size: int = 3,
    act: Activation = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Makes a plain convolutional network for images of any size.

    It maps `(batch, n_in, height, width)` to `(batch, n_out)`. The modules are `block<i>`, each a
    `conv_block` that halves the image except the first, then `pool`, `flatten`, `dropout` and
    `head`.

    Args:
        n_in: number of channels of the images.
        n_out: number of outputs, such as classes.
        channels: number of channels of each block.
        kernel_size: height and width of the kernels in pixels; odd.
        act: activation, by name or as a callable that makes the module.
        dropout: share of the pooled features that are zeroed in training.

    Raises:
        ValueError: if `channels` is empty or holds a number below 1, or `act` is unknown.
    """
    _check_channels(channels)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after) in enumerate(zip([n_in, *channels], channels, strict=False)):
        layers[f"block{i}"] = conv_block(
            before, after, kernel_size=kernel_size, stride=1 if i == 0 else 2, act=act
        )
    return nn.Sequential(layers | _head(channels[-1], n_out, act, dropout))


class ResBlock(nn.Module):
    """A basic residual block.

    It maps `(batch, n_in, h, w)` to `(batch, n_out, h / stride, w / stride)`, rounded up. The
    weight of the last normalization of the branch is initially zero, so the block starts as its
    shortcut (Goyal et al., 2017, https://arxiv.org/abs/1706.02677, section 5.1). The shortcut
    averages if the block has a stride, and projects if the channels differ (ResNet-D; He et al.,
    2019, https://arxiv.org/abs/1812.01187).
    """

    def __init__(self, n_in: int, n_out: int, *, stride: int = 1, act: Activation = "relu") -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(n_in, n_out, 3, stride), nn.BatchNorm2d(n_out)
        self.act1 = make_activation(act)
        self.conv2, self.norm2 = (
            _conv(n_out, n_out, 3, 1, activation_gain(act)),
            nn.BatchNorm2d(n_out),
        )
        nn.init.zeros_(self.norm2.weight)
        self.shortcut = _shortcut(n_in, n_out, stride)
        self.act2 = make_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """Adds the branch to the shortcut."""
        branch = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        out: Tensor = self.act2(branch + self.shortcut(x))
        return out


def resnet(
    n_in: int = 1,
    n_out: int = 10,
    channels: Sequence[int] = (16, 32, 64),
    *,
    n_blocks: int = 1,
    act: Activation = "relu",
    dropout: float = 0.0,
) -> nn.Sequential:
    """Makes a residual network for images of any size.

    It maps `(batch, n_in, height, width)` to `(batch, n_out)`. The modules are `stem`, a
    `conv_block`; `stage<i>`, each with numbered `ResBlock`s; and `pool`, `flatten`, `dropout` and
    `head`. The first block of each stage except the first stage halves the image. Source: He et
    al., 2016, https://arxiv.org/abs/1512.03385, in the form for small images (section 4.2), with
    the shortcuts of ResNet-D.

    Args:
        n_in: number of channels of the images.
        n_out: number of outputs, such as classes.
        channels: number of channels of each stage.
        n_blocks: number of blocks in each stage.
        act: activation, by name or as a callable that makes the module.
        dropout: share of the pooled features that are zeroed in training.

    Raises:
        ValueError: if `channels` is empty or holds a number below 1, if `n_blocks` is less than 1,
            or if `act` is unknown.
    """
    _check_channels(channels)
    if n_blocks < 1:
        raise ValueError(f"n_blocks={n_blocks} must be at least 1.")
    layers: OrderedDict[str, nn.Module] = OrderedDict(stem=conv_block(n_in, channels[0], act=act))
    for i, (before, after) in enumerate(zip([channels[0], *channels], channels, strict=False)):
        layers[f"stage{i}"] = _stage(before, after, 1 if i == 0 else 2, n_blocks, act)
    return nn.Sequential(layers | _head(channels[-1], n_out, act, dropout))


def _stage(n_in: int, n_out: int, stride: int, n_blocks: int, act: Activation) -> nn.Sequential:
    blocks = [ResBlock(n_in, n_out, stride=stride, act=act)]
    return nn.Sequential(*blocks, *(ResBlock(n_out, n_out, act=act) for _ in range(n_blocks - 1)))


def _conv(n_in: int, n_out: int, kernel_size: int, stride: int, gain: float = 1.0) -> nn.Conv2d:
    """Makes a padded convolution without a bias, which the next normalization would cancel."""
    return kaiming(
        nn.Conv2d(n_in, n_out, kernel_size, stride, padding=kernel_size // 2, bias=False), gain
    )


def _shortcut(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if stride != 1:
        layers["pool"] = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
    if n_in != n_out:
        layers["conv"], layers["norm"] = _conv(n_in, n_out, 1, 1), nn.BatchNorm2d(n_out)
    return nn.Sequential(layers)


def _head(n_in: int, n_out: int, act: Activation, dropout: float) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()
    )
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["head"] = kaiming(nn.Linear(n_in, n_out), activation_gain(act))
    return layers


def _check_channels(channels: Sequence[int]) -> None:
    if not channels or min(channels) < 1:
        raise ValueError(f"channels={list(channels)} must hold one or more numbers of at least 1.")
