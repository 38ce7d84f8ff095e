"""benchmarks/archives/typed for Triton's python backend, as a person would write it."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from answer import answer

#: NumPy's types of the outputs; each output has one dimension besides the rows.
OUTPUTS = {
    "total": np.float64, "doubled": np.float64, "next": np.int64, "is_off": np.bool_, "upper": np.object_,
    "lengths": np.object_,
}  # fmt: skip


class TritonPythonModel:
    """One answer for each row of a request."""

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        columns = [
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in ("numbers", "count", "is_on", "text")
        ]
        try:
            answers = [
                answer(numbers.tolist(), int(count[0]), bool(is_on[0]), text[0].decode())
                for numbers, count, is_on, text in zip(*columns, strict=True)
            ]
        except ValueError as error:
            return pb_utils.InferenceResponse([], pb_utils.TritonError(str(error)))
        for row in answers:
            row["lengths"] = json.dumps(row["lengths"])
        tensors = []
        for name, kind in OUTPUTS.items():
            values = [row[name].encode() if kind is np.object_ else row[name] for row in answers]
            tensors.append(pb_utils.Tensor(name, np.array(values, kind).reshape(len(answers), -1)))
        return pb_utils.InferenceResponse(tensors)
