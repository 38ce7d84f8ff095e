#!/bin/sh
# Packs handler.py with TorchServe's own archiver, and puts the archive into archives/store. An archive that you have
# comes there in the same way: tsctl archive add FILE.mar
set -eu
cd "$(dirname "$0")"
made=$(mktemp -d)
torch-model-archiver --model-name median --version 1.0 --handler handler.py --export-path "$made"
"${TSCTL:-tsctl}" archive add "$made/median.mar"
rm -r "$made"
