"""The OpenAI API's chat completions and completions: what a request asks for, and the form of answers and streams.

The form is that of OpenAI's published API reference, `/v1/chat/completions` and `/v1/completions`.
"""
