"""KServe's own client as a program, because its pins are not ours: a JSON object a line comes in, and one goes out.

    {"to": ["grpc", "127.0.0.1:8001", "key"], "do": "ready"}  ->  {"is": true}

Started by the Python of KServe's environment.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

DTYPES = {"FP32": np.float32, "FP64": np.float64, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}


class OverRest:
    """The REST client."""

    def __init__(self, address: str, key: str) -> None:
        self.url, self.headers = f"http://{address}", {"x-api-key": key}
        self.client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))

    async def live(self) -> bool:
        return bool(await self.client.is_server_live(self.url, headers=self.headers))

    async def ready(self) -> bool:
        return bool(await self.client.is_server_ready(self.url, headers=self.headers))

    async def model_ready(self, model: str) -> bool:
        return bool(await self.client.is_model_ready(self.url, model, headers=self.headers))

    async def infer(self, model: str, request: InferRequest) -> Any:
        return await self.client.infer(self.url, request, model_name=model, headers=dict(self.headers))


class OverGrpc:
    """The gRPC client."""

    def __init__(self, address: str, key: str) -> None:
        self.metadata = (("x-api-key", key),)
        self.client = InferenceGRPCClient(address)

    async def live(self) -> bool:
        return bool(await self.client.is_server_live(headers=self.metadata))

    async def ready(self) -> bool:
        return bool(await self.client.is_server_ready(headers=self.metadata))

    async def model_ready(self, model: str) -> bool:
        return bool(await self.client.is_model_ready(model, headers=self.metadata))

    async def infer(self, model: str, request: InferRequest) -> Any:
        return await self.client.infer(request, headers=self.metadata)


async def answer(client: OverRest | OverGrpc, asked: dict[str, Any]) -> dict[str, Any]:
    do = asked.pop("do")
    if do != "infer":
        return {"is": await getattr(client, do)(**asked)}
    inputs = []
    for name, (datatype, shape, values) in asked["inputs"].items():
        tensor = InferInput(name, shape, datatype)
        tensor.set_data_from_numpy(np.array(values, DTYPES[datatype]).reshape(shape), binary_data=asked["is_binary"])
        inputs.append(tensor)
    request = InferRequest(asked["model"], inputs, request_id="mine", model_version=asked["version"] or None)
    response = await client.infer(asked["model"], request)
    return {
        "version": response.model_version,
        "id": response.id,
        "outputs": {output.name: texts(output.as_numpy().tolist()) for output in response.outputs},
    }


def texts(value: Any) -> Any:
    if isinstance(value, list):
        return [texts(each) for each in value]
    return value.decode() if isinstance(value, bytes) else value


async def main() -> None:
    clients: dict[tuple[str, ...], OverRest | OverGrpc] = {}
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        to = protocol, address, key = tuple(asked.pop("to"))
        if to not in clients:
            clients[to] = OverGrpc(address, key) if protocol == "grpc" else OverRest(address, key)
        try:
            said = await answer(clients[to], asked)
        except httpx.HTTPStatusError as error:
            said = {"status": error.response.status_code, "message": str(error)}
        except grpc.RpcError as error:
            said = {"code": error.code().name, "message": error.details()}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
