"""Where somebody speaks in a sound: a ready-made handler that reads WAV files too."""

import io
import wave

import numpy as np

from handlers.contract import JSON
from handlers.errors import DoesNotFit, UndecodableBody
from handlers.torchscript import TorchScriptHandler

WAV = "audio/wav"


class VoiceActivityHandler(TorchScriptHandler):
    """A mono sound of 16 bits, or numbers from -1 to 1 in JSON; settings: `rate` in samples a second, and `frame`."""

    media_types = (JSON, WAV)

    def decode(self, body, media_type):
        """One array `sound` of shape (samples,), float32."""
        return {"sound": self._read(body)} if media_type == WAV else super().decode(body, media_type)

    def prepare(self, items):
        """The items; a sound shorter than a frame is refused."""
        short = DoesNotFit(f"A sound has at least {self.settings['frame']} samples.")
        return [item if item["sound"].size >= self.settings["frame"] else short for item in items]

    def postprocess(self, outputs):
        """The seconds in which somebody speaks, and the probability of each frame."""
        return [self._answer(each["output"].astype(float).round(4)) for each in outputs]

    def _read(self, body):
        try:
            with wave.open(io.BytesIO(body)) as file:
                rate, channels, width = file.getframerate(), file.getnchannels(), file.getsampwidth()
                frames = file.readframes(file.getnframes())
        except (wave.Error, EOFError) as error:
            raise UndecodableBody(f"The body is not a WAV file: {error}.") from None
        if (rate, channels, width) != (self.settings["rate"], 1, 2):
            raise DoesNotFit(
                f"The sound has {rate} samples a second, {channels} channels and {8 * width} bits; expected"
                f" {self.settings['rate']}, 1 and 16."
            )
        return np.frombuffer(frames, dtype="<i2").astype(np.float32) / 32768

    def _answer(self, chances):
        seconds = self.settings["frame"] / self.settings["rate"]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], chances > 0.5, [0]]).astype(int)))
        parts = [{"begin_s": begin * seconds, "end_s": end * seconds} for begin, end in edges.reshape(-1, 2).tolist()]
        return {"speech": parts, "probabilities": chances.tolist()}
