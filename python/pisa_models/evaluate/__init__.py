"""Measures a model bundle: metrics, peers, tables and contact sheets (`python -m pisa_models.evaluate`)."""
