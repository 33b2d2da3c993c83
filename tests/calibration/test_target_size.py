import argparse
import json
from xml.etree import ElementTree

import pytest

from illume_calibration.ranking import MAX_BARS, svg_from_damages
from illume_calibration.sensitivity import Damage
from illume_calibration.target_size import target_size
from illume_runtime.bundle import Bundle

SVG = "{http://www.w3.org/2000/svg}"


def bytes_in(bundle):
    return sum(file.num_bytes for file in Bundle.open(bundle).manifest.files.values())


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [("16MB", 16_000_000), ("1.5 GiB", 3 << 29), ("0.3x", 3_000), ("12kB", 12_000), ("2MiB", 2 << 20)],
)
def test_a_size_is_bytes_or_a_share(text, num_bytes):
    assert target_size(text).num_bytes(10_000) == num_bytes


@pytest.mark.parametrize("text", ["16", "16mb", "x", "-1MB", "0x", "nanMB", "30%"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"16MB or 1\.5GiB, or a share"):
        target_size(text)


def test_the_dearest_layers_go_back_to_float_as_far_as_there_is_room(illume, bundle, quantized, data, recipe, tmp_path):
    smallest, whole = bytes_in(quantized), bytes_in(bundle)
    allowed = (smallest + whole) // 2
    words = ["--data", data, "-o", tmp_path / "out", "--recipe", recipe, "--report", tmp_path / "r.html"]
    code, out, err = illume("calibrate", bundle, *words, "--target-size", f"{allowed / 1e3}kB", "--json")
    assert code in (0, 6), err
    assert smallest < bytes_in(tmp_path / "out") <= allowed
    found = json.loads(out)
    ranked = found["sensitivity"]
    prices = [damage["noise"] / max(damage["saved_bytes"], 1e-9) for damage in ranked]
    assert prices == sorted(prices, reverse=True)
    stages = found["quantization"]["stages"]
    assert ranked[0]["layer"] in stages[ranked[0]["stage"]]["kept"]
    relieved = [d for d in ranked if d["layer"] in stages[d["stage"]]["kept"]]
    left = [d for d in ranked if d not in relieved]
    room = allowed - bytes_in(tmp_path / "out")
    assert all(d["noise"] == 0 or d["saved_bytes"] > room - 512 for d in left)  # no other one would have fitted
    picture = ElementTree.parse(tmp_path / "r.svg").getroot()
    assert len(picture.findall(f"{SVG}rect")) == 1 + min(len(ranked), MAX_BARS)
    assert "<title>Noise per megabyte saved</title>" in (tmp_path / "r.html").read_text()


def test_a_size_that_cannot_be_reached_is_refused_with_the_smallest(illume, bundle, quantized, data, recipe, tmp_path):
    words = ["--data", data, "-o", tmp_path / "out", "--recipe", recipe]
    code, _, err = illume("calibrate", bundle, *words, "--target-size", "0.01x")
    assert code == 2
    assert f"--target-size 0.01x: the smallest that recipe small reaches is {bytes_in(quantized) / 1e6:.1f} MB (" in err
    assert f"({bytes_in(quantized) / bytes_in(bundle):.3f}x)" in err
    code, _, err = illume("calibrate", bundle, *words, "--target-size", "1x")
    assert code == 2
    assert "nothing needs to be quantized" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target-size", "0.3x", "--max-drop", "1"], "not allowed with argument"),
        (["--target-size", "small"], "expected a size such as 16MB"),
        (["--no-gate", "--report", "r.html"], "--report shows what the gate measures; leave --no-gate out"),
    ],
)
def test_bad_input(illume, bundle, data, tmp_path, words, message):
    code, _, err = illume("calibrate", bundle, "--data", data, "-o", tmp_path / "out", *words)
    assert code == 2
    assert message in err


def test_only_the_worst_layers_are_drawn():
    damages = [Damage("decoder", f"<{i}>" + "long" * 20, 10.0 ** (-i / 7), 0.0, 1000, -0.1) for i in range(50)]
    picture = ElementTree.fromstring(svg_from_damages(damages))
    texts = [text.text for text in picture.findall(f"{SVG}text")]
    assert len(picture.findall(f"{SVG}rect")) == 1 + MAX_BARS
    assert "and 10 layers whose bytes are cheaper" in texts
    widths = [float(rect.get("width")) for rect in picture.findall(f"{SVG}rect")[1:]]
    assert widths == sorted(widths, reverse=True)
