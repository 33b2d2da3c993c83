"""Writing a manifest and reading it back gives the same."""

import json

from bundle_folder import manifest_json
from illume_runtime.manifest import json_from_manifest, manifest_from_json
from illume_runtime.programs import Force, Repeat, Sample


def test_a_manifest_is_read_back_as_it_was_written():
    data = manifest_json()
    manifest = manifest_from_json(data)
    written = json_from_manifest(manifest)
    assert written == data
    assert list(written) == list(data)
    assert manifest_from_json(json.loads(json.dumps(written))) == manifest


def test_programs_become_operations():
    program = manifest_from_json(manifest_json()).grammar.image.resolutions[0].output
    assert program[1] == Repeat(2, (Sample("level0", 3), Force(("end_of_line",))))
