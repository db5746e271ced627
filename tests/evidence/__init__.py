"""Tests of evidence: attestations, seals, bills of materials."""
