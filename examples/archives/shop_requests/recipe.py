"""Makes a transformer that sorts customers' requests, as a folder with config.json, weights and tokenizer.json.

It is trained for seconds on the texts below. Your own folder comes from `model.save_pretrained(out)` and
`tokenizer.save_pretrained(out)`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification
from transformers.utils.logging import disable_progress_bar

TEXTS = {
    "delivery": [
        "Where is my parcel?", "My order has not arrived yet.", "When will the package come?",
        "The tracking number shows nothing.", "How long does shipping take?", "The courier left the parcel elsewhere.",
        "Can I change the delivery address?", "My delivery is two days late.", "Please deliver it on Saturday.",
    ],
    "refund": [
        "I want my money back.", "How do I return this jacket?", "The refund is not on my account.",
        "I would like to send it back.", "Please cancel the order and refund me.", "I was charged twice, refund one.",
        "When do I get my money?", "Can I return it without the box?", "The return label is missing.",
    ],
    "product": [
        "Is this lamp available in blue?", "Does the phone have a warranty?", "Which size fits a tall person?",
        "Is the kettle made of steel?", "How heavy is the chair?", "Does it come with batteries?",
        "Do you sell a smaller model?", "What colours does the jacket come in?", "Is the lamp dimmable?",
    ],
}  # fmt: skip
STEPS = 120

parser = argparse.ArgumentParser()
parser.add_argument("--version")
parser.add_argument("--settings")
parser.add_argument("--out", type=Path)
options = parser.parse_args()
folder = options.out / "classifier"

torch.set_num_threads(1)
disable_progress_bar()
texts = [text for of_topic in TEXTS.values() for text in of_topic]
topics = torch.tensor([place for place, of_topic in enumerate(TEXTS.values()) for _ in of_topic])
clean = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
words = sorted({word for text in texts for word, _ in pre_tokenizers.Whitespace().pre_tokenize_str(text.lower())})
vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 - no password
tokenizer.normalizer, tokenizer.pre_tokenizer = clean, pre_tokenizers.Whitespace()
tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))

torch.manual_seed(0)
names = dict(enumerate(TEXTS))
config = BertConfig(
    vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
    max_position_embeddings=128, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    id2label=names, label2id={name: place for place, name in names.items()},
)  # fmt: skip
network = BertForSequenceClassification(config)
optimizer = torch.optim.AdamW(network.parameters(), lr=0.002, weight_decay=0.1)
tokenizer.enable_padding()
encodings = tokenizer.encode_batch(texts)
ids, mask = (torch.tensor([getattr(each, part) for each in encodings]) for part in ("ids", "attention_mask"))
for _ in range(STEPS):
    loss = network(input_ids=ids, attention_mask=mask, labels=topics).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
tokenizer.no_padding()
network.eval().save_pretrained(folder)
tokenizer.save(str(folder / "tokenizer.json"))
with torch.inference_mode():
    right = int((network(input_ids=ids, attention_mask=mask).logits.argmax(dim=1) == topics).sum())
print(f"shop_requests {options.version}: {right} of {len(texts)} texts right")
