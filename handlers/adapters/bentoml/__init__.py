"""An unpacked archive as a service of BentoML, which `bentoml serve` and `bentoml build` accept."""
