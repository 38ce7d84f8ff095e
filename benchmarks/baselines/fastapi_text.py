"""A language model behind FastAPI, as its users write it: one prompt at a time, with the streamers of each library.

TEXT_LIBRARY says which: `transformers` (`generate` and its TextIteratorStreamer) or `openvino` (`LLMPipeline`).
"""

import json
import os
import queue
import threading
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

WEIGHTS = Path(os.environ["TEXT_WEIGHTS"])
app = FastAPI()
lock = threading.Lock()  # the model computes one answer at a time


class Completion(BaseModel):
    """The request."""

    prompt: str
    max_tokens: int


def with_transformers():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS.parent, gguf_file=WEIGHTS.name)
    model = AutoModelForCausalLM.from_pretrained(WEIGHTS.parent, gguf_file=WEIGHTS.name)
    model.eval()

    def generate(asked: Completion):
        inputs = tokenizer(asked.prompt, return_tensors="pt")
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        options = {"max_new_tokens": asked.max_tokens, "do_sample": False, "streamer": streamer}
        answers = []
        thread = threading.Thread(target=lambda: answers.append(model.generate(**inputs, **options)))
        thread.start()
        yield from streamer
        thread.join()
        prompt = inputs["input_ids"].shape[1]
        return prompt, answers[0].shape[1] - prompt

    return generate


def with_openvino():
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(str(WEIGHTS), "CPU")
    tokenizer = pipeline.get_tokenizer()

    def generate(asked: Completion):
        texts = queue.SimpleQueue()
        done = object()
        results = []

        def work():
            options = {"max_new_tokens": asked.max_tokens, "do_sample": False, "apply_chat_template": False}
            results.append(pipeline.generate([asked.prompt], streamer=texts.put, **options))
            texts.put(done)

        thread = threading.Thread(target=work)
        thread.start()
        yield from iter(texts.get, done)
        thread.join()
        metrics = results[0].perf_metrics
        return tokenizer.encode(asked.prompt).input_ids.shape[1], metrics.get_num_generated_tokens()

    return generate


generate = {"transformers": with_transformers, "openvino": with_openvino}[os.environ["TEXT_LIBRARY"]]()


@app.post("/v1/completions")
def complete(asked: Completion) -> StreamingResponse:
    """A stream in the form of the OpenAI API."""

    def events():
        with lock:
            texts = generate(asked)
            while True:
                try:
                    text = next(texts)
                except StopIteration as end:
                    prompt, answer = end.value
                    break
                yield f"data: {json.dumps({'choices': [{'text': text}]})}\n\n"
        usage = {"prompt_tokens": prompt, "completion_tokens": answer}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
