"""A small bundle made by hand: 2x3 and 4x4 codes in two levels, a graph of a few bytes, one table."""

import copy
import hashlib
import json

import numpy as np
from onnx import TensorProto, helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROLS = {
    "end": 256,
    "start_of_image": 257,
    "end_of_image": 258,
    "end_of_line": 259,
    "begin": 260,
    "user": 261,
    "assistant": 262,
    "pad": 263,
}
CONTROL_TEXTS = {name: f"<|{name}|>" for name in CONTROLS}


def byte_tokenizer(*, special=True, prefix_space=False):
    """One token per byte, then the controls in the order of their ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    made.decoder = decoders.ByteLevel()
    for text in CONTROL_TEXTS.values():
        made.add_tokens([AddedToken(text, special=special)])
    return made


def graph(location=None, *, in_attribute=False):
    """The bytes of an ONNX file of one weight, outside the file if there is a location."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    if location is not None:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location)
        weight.external_data.add(key="offset", value="0")
    if in_attribute:
        node = helper.make_node("Constant", [], ["y"], value=weight)
        body = helper.make_graph([node], "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
        outer = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        made = helper.make_graph([outer], "g", [helper.make_tensor_value_info("c", TensorProto.BOOL, [])], [])
    else:
        made = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [weight])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()


def programs(grids):
    """The output and input programs of grids of one or two levels, in the manner of the illume family."""
    rows, columns = grids[0]
    line = [{"sample": "level0", "count": columns}, {"force": ["end_of_line"]}]
    body = [{"repeat": rows, "body": line}]
    if len(grids) > 1:
        body.append({"force": ["end_of_line", "end_of_line"]})
        body.append({"sample": "level1", "count": grids[1][0] * grids[1][1]})
    around = [{"force": ["start_of_image"]}], [{"force": ["end_of_image"]}]
    read = [{"repeat": rows, "body": [{"embed": columns}, {"force": ["end_of_line"]}]}]
    return {"output": [*around[0], *body, *around[1]], "input": [*around[0], *read, *around[1]]}


def resolution(name="48x32", grids=((2, 3), (4, 4))):
    return {"name": name, "width": 48, "height": 32, "grids": [list(g) for g in grids], **programs(grids)}


def manifest_json():
    """A valid `bundle.json` but for its `files`."""
    port = {"name": "x", "dtype": "float32", "shape": ["B", 3]}
    stage = {
        "file": "stages/head.onnx",
        "opset": 20,
        "inputs": [port],
        "outputs": [port],
        "weight_bytes": 4,
        "params": 1,
        "flops": {"per": "row", "count": 2},
        "source_sha256": "0" * 64,
        "parity": {"max_abs_error": 0.0, "tolerance": 1e-4, "cases": 1, "reference": "torch"},
    }
    return {
        "format": "illume-bundle",
        "schema_version": 1,
        "family": "illume",
        "name": "small",
        "precision": "float32",
        "tools": {"illume-rt": "0.1.0"},
        "files": {},
        "stages": {"head_level0": stage},
        "tables": {"colors": {"file": "tables/colors.npy", "dtype": "uint8", "shape": [10, 3]}},
        "model": {"hidden_size": 8, "num_layers": 1, "num_kv_heads": 1, "head_dim": 4, "max_context": 64},
        "vocabulary": {
            "size": 300,
            "segments": [
                {"name": "text", "start": 0, "end": 258},
                {"name": "level0", "start": 264, "end": 274},
                {"name": "level1", "start": 274, "end": 300},
            ],
            "controls": dict(CONTROLS),
        },
        "grammar": {"image": {"resolutions": [resolution(), resolution("16x16", ((1, 1),))]}},
        "prompts": {
            "begin": [{"control": "begin"}],
            "user": [{"control": "user"}, {"slot": "text"}, {"slot": "images"}, {"control": "assistant"}],
            "end": [{"control": "end"}],
            "defaults": {"describe": "describe the picture", "reconstruct": "draw the same picture"},
            "unconditional_text": "",
        },
        "preprocessing": {
            "image_size": [32, 48],
            "resample": "bicubic",
            "fit": "pad",
            "pad_color": [255, 255, 255],
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
        "scheduler": {
            "type": "flow",
            "solver": "ab2",
            "latent_shape": [4, 4, 4],
            "shift": 1.0,
            "default_steps": 10,
            "max_steps": 100,
        },
    }


def write_bundle(folder, *, model=None, files=None, change=None):
    """A bundle in the folder; `files`: more of its files; `change(data)` changes `bundle.json` at the end."""
    data = copy.deepcopy(manifest_json())
    (folder / "stages").mkdir(parents=True)
    (folder / "tables").mkdir()
    (folder / "stages" / "head.onnx").write_bytes(graph() if model is None else model)
    np.save(folder / "tables" / "colors.npy", np.arange(30, dtype=np.uint8).reshape(10, 3))
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"draw": {"temperature": 1.0, "steps": 10}}))
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    list_files(folder, data)
    if change is not None:
        change(data)
    (folder / "bundle.json").write_text(json.dumps(data))
    return folder


def list_files(folder, data):
    """Set `files` to what is in the folder."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "bundle.json"):
        content = path.read_bytes()
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        data["files"][path.relative_to(folder).as_posix()] = entry


def set_key(data, path, value):
    """`data[a][b]... = value` for the path `a.b`, in which numbers count list items."""
    *parents, last = path.split(".")
    for name in parents:
        data = data[int(name)] if isinstance(data, list) else data[name]
    data[int(last) if isinstance(data, list) else last] = value
