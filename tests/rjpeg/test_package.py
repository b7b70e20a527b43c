"""The library stands alone and stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import rjpeg
from rjpeg import _native

# they have an extra of their own
OF_CLIENT = {"client.py", "_http.py", "_records.py", "_transport.py", "_zones.py"}
ALLOWED = {"rjpeg", "numpy", "cv2", "tflite_runtime", "ai_edge_litert", "yaml"}


def test_rjpeg_imports_numpy_opencv_and_a_runtime_and_nothing_else():
    found = set()
    for path in Path(rjpeg.__file__).parent.glob("*.py"):
        if path.name in OF_CLIENT:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    assert found - set(sys.stdlib_module_names) <= ALLOWED


def test_no_tensorflow_is_loaded_by_coding_and_decoding():
    program = """
import sys
import numpy as np, rjpeg
jpeg = rjpeg.Encoder().encode(np.full((40, 40, 3), 99, np.uint8), quality=50)
rjpeg.Decoder().decode(jpeg)
assert not {"tensorflow", "keras", "torch"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_all_errors_are_of_one_tree():
    errors = [getattr(rjpeg.errors, name) for name in rjpeg.errors.__all__]
    assert len(errors) >= 10
    assert all(issubclass(error, rjpeg.RjpegError) for error in errors)


def test_the_errors_of_devices_and_servers_are_no_names_of_the_library():
    public = {name for name in rjpeg.__all__ if name.endswith("Error")}
    assert set(rjpeg.errors.__all__) - public == {"ConfigError", "DeliveryError"}
    assert not hasattr(rjpeg, "ConfigError")


def test_the_stub_of_the_native_module_has_its_functions_with_their_arguments():
    stub = Path(rjpeg.__file__).with_name("_native.pyi")
    described = {node.name: node.args for node in ast.parse(stub.read_text()).body if isinstance(node, ast.FunctionDef)}
    functions = {name: value for name, value in vars(_native).items() if not name.startswith("_")}
    assert described.keys() == functions.keys()
    for name, function in functions.items():
        # pybind11 writes the signature into the first line
        (definition,) = ast.parse(f"def {function.__doc__.splitlines()[0]}: ...").body
        real, stated = definition.args, described[name]
        assert [argument.arg for argument in stated.args] == [argument.arg for argument in real.args], name
        assert list(map(ast.dump, stated.defaults)) == list(map(ast.dump, real.defaults)), name
