"""benchmarks/archives/typed for MLServer, as a person would write it."""

import json

import numpy as np
from answer import answer
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

#: NumPy's types of the outputs that are no texts.
NUMBERS = {"total": np.float64, "doubled": np.float64, "next": np.int64, "is_off": np.bool_}


class TypedRuntime(MLModel):
    """One answer for each row of a request."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {tensor.name: tensor for tensor in payload.inputs}
        numbers, counts, switches = (NumpyCodec.decode_input(given[name]) for name in ("numbers", "count", "is_on"))
        texts = StringCodec.decode_input(given["text"])
        rows = zip(numbers.tolist(), counts.ravel().tolist(), switches.ravel().tolist(), texts, strict=True)
        answers = [answer(*row) for row in rows]
        outputs = [
            NumpyCodec.encode_output(name, np.array([row[name] for row in answers], kind).reshape(len(answers), -1))
            for name, kind in NUMBERS.items()
        ]
        outputs.append(StringCodec.encode_output("upper", [row["upper"] for row in answers]))
        outputs.append(StringCodec.encode_output("lengths", [json.dumps(row["lengths"]) for row in answers]))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
