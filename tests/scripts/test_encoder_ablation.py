"""The ablation of the encoder's loss."""

from huref.encoder.network import FingerprintCNN
from scripts.encoder.ablation import AFTER, ModelPairs, draw_test, measure, to_table


def test_the_ablation_measures_every_run_on_the_same_pairs() -> None:
    test = ModelPairs(**draw_test(3, 32, [16, 32]))
    assert set(AFTER) < set(test.ics)
    assert float(test.ics["0.9"].min()) > 0.6 > float(test.ics["0.3"].max())
    network = FingerprintCNN(32, (16,), (8, 4))
    found = {name: measure(network, test) for name in ("whole", "untrained")}
    assert found["whole"]["anchors"].shape == (3,)
    found["projection"] = found["whole"]
    table = to_table("`command`", found, {"whole": [0.5, 0.0, 0.0], "untrained": []}, test)
    assert "| 0.5 0.0 0.0 |" in table
    assert table.count("| projection |") == 1
    assert "| whole less untrained | +0.0000 ± 0.0000 |" in table
