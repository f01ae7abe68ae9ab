"""Convolutional models for small images, from 8x8 to 64x64 pixels."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from nntrain.models.inits import Activation, activation_gain, kaiming, make_activation


def conv_block(
    n_in: int, n_out: int, *, kernel_size: int = 3, stride: int = 1, act: Activation = "relu"
) -> nn.Sequential:
    """Creates a convolutional block with the modules `conv`, `norm` and `act`.

    The input shape is `(batch, n_in, h, w)`. The output shape is
    `(batch, n_out, h / stride, w / stride)`, rounded up.
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
    """Creates a plain convolutional network for images of any size.

    The input shape is `(batch, n_in, height, width)`, the output shape `(batch, n_out)`. The
    modules are `block<i>`, `pool`, `flatten`, `dropout` and `head`. Each `block<i>` is a
    `conv_block`; every block except the first halves the height and width.

    Args:
        n_in: number of channels of the images.
        n_out: number of outputs, such as the number of classes.
        channels: number of channels of each block.
        kernel_size: height and width of the kernels in pixels; odd.
        act: name of the activation, or a callable that returns an activation module.
        dropout: dropout probability of the pooled features.

    Raises:
        ValueError: if `channels` is empty or contains a number below 1, or if `act` is unknown.
    """
    _check_channels(channels)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (before, after) in enumerate(zip([n_in, *channels], channels, strict=False)):
        layers[f"block{i}"] = conv_block(
            before, after, kernel_size=kernel_size, stride=1 if i == 0 else 2, act=act
        )
    return nn.Sequential(layers | _head(channels[-1], n_out, act, dropout))


class ResBlock(nn.Module):
    """Basic residual block.

    The input shape is `(batch, n_in, h, w)`. The output shape is
    `(batch, n_out, h / stride, w / stride)`, rounded up. The weights of the last normalization in
    the branch are initialized to zero, so the branch of a new block outputs zeros (Goyal et al.,
    2017, https://arxiv.org/abs/1706.02677, section 5.1). The shortcut has average pooling if the
    stride is not 1, and a 1x1 convolution if the number of channels changes (ResNet-D; He et al.,
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
        """Adds the outputs of the branch and the shortcut, then applies the activation."""
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
    """Creates a residual network for images of any size.

    The input shape is `(batch, n_in, height, width)`, the output shape `(batch, n_out)`. The
    modules are `stem`, `stage<i>`, `pool`, `flatten`, `dropout` and `head`. `stem` is a
    `conv_block`, and each `stage<i>` is a sequence of `ResBlock`s. Every stage except the first
    halves the height and width. Source: He et al., 2016, https://arxiv.org/abs/1512.03385, in the
    variant for small images (section 4.2), with the shortcuts of ResNet-D.

    Args:
        n_in: number of channels of the images.
        n_out: number of outputs, such as the number of classes.
        channels: number of channels of each stage.
        n_blocks: number of blocks in each stage.
        act: name of the activation, or a callable that returns an activation module.
        dropout: dropout probability of the pooled features.

    Raises:
        ValueError: if `channels` is empty or contains a number below 1, if `n_blocks` is less than
            1, or if `act` is unknown.
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
    """Creates a padded convolution without a bias, because normalization would cancel the bias."""
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
        raise ValueError(
            f"channels={list(channels)} must contain at least one number, "
            "and each number must be at least 1."
        )
