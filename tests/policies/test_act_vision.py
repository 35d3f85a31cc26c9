"""The ResNet backbone: torchvision's own network, torchvision's own weights."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models.feature_extraction import create_feature_extractor

from tactile_align.policies.act import ACT, ACTConfig, read_resnet18_weights, resnet18_backbone


def tiny(weights: Path, per_camera_backbones: bool = False) -> ACTConfig:
    return ACTConfig(
        state_dim=3,
        action_dim=2,
        cameras=("a", "b"),
        vision_weights=str(weights),
        per_camera_backbones=per_camera_backbones,
        d_model=16,
        heads=2,
        ffn_dim=8,
        encoder_layers=1,
        vae_layers=1,
    )


def trained_looking_resnet() -> torch.nn.Module:
    torch.manual_seed(3)
    resnet = torchvision.models.resnet18(weights=None).train()
    with torch.no_grad():
        resnet(torch.randn(4, 3, 64, 96) * 2 + 1)  # moves the running statistics off 0 and 1
    return resnet.eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file_give_torchvisions_features(tmp_path: Path, suffix: str) -> None:
    resnet = trained_looking_resnet()
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(resnet.state_dict(), path)
    else:
        save_file(resnet.state_dict(), path)
    model = ACT(tiny(path, per_camera_backbones=True)).train()
    images = torch.randn(2, 3, 64, 96)
    features = create_feature_extractor(resnet, ["layer4"])(images)
    for backbone in model.backbones:
        torch.testing.assert_close(backbone(images), features["layer4"], atol=1e-4, rtol=1e-4)


def test_a_checkpoint_can_be_loaded_where_the_vision_file_is_gone(tmp_path: Path) -> None:
    config = tiny(tmp_path / "gone.pth")
    with pytest.raises(FileNotFoundError, match=r"IMAGENET1K_V1.*'scratch'; got '.*gone\.pth'"):
        ACT(config)
    ACT(config, fill_vision=False)


def test_another_network_is_refused_by_the_tensors_that_differ(tmp_path: Path) -> None:
    tensors = dict(resnet18_backbone().state_dict())
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :1].contiguous()
    del tensors["layer4.1.bn2.bias"]
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"odd\.safetensors.*conv1\.weight is .*; layer4\.1\.bn2\.bias is missing"):
        read_resnet18_weights(str(tmp_path / "odd.safetensors"))


def test_a_torch_file_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": Path("x")}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth.*without running its code.*safetensors"):
        read_resnet18_weights(str(tmp_path / "model.pth"))
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(ValueError, match=r"epoch\.pth.*named tensors.*state_dict\(\)"):
        read_resnet18_weights(str(tmp_path / "epoch.pth"))
