"""New projects and new models, as files that are written once and belong to the user from then on."""
