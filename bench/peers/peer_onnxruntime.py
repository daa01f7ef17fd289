"""ONNX Runtime, f32."""
import numpy as np
import onnxruntime

from exported import exported


def encode(spec):
    path = exported(spec, "encoder.onnx", what="encoder-onnx")

    def prepare(unit):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = spec["threads"]
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        for axis in ("height", "width"):
            options.add_free_dimension_override_by_name(axis, unit["side"])
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = {"pixels": np.random.rand(1, 3, unit["side"], unit["side"]).astype(np.float32)}
        return lambda: session.run(None, given)
    return prepare
