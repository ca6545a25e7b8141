"""What a training starts from: read, checked and encoded once."""

from collections import Counter

import pandas as pd

from tsf_llm import bars_tsf_llm, feature_extraction_tsf_llm


def test_a_training_checks_each_bar_and_computes_each_feature_once(train, prices, tmp_path, monkeypatch):
    """Its fit, its windows and its scores before and after."""
    check, compute = bars_tsf_llm.check_bars, feature_extraction_tsf_llm.compute_features
    checked, computed = Counter(), Counter()

    def counted_check(bars, ticker, *args, **kwargs):
        checked[ticker] += len(bars)
        return check(bars, ticker, *args, **kwargs)

    def counted_compute(bars, names, *args, **kwargs):
        table = compute(bars, names, *args, **kwargs)
        computed.update(dict.fromkeys(names, len(table)))
        return table

    monkeypatch.setattr(bars_tsf_llm, "check_bars", counted_check)
    monkeypatch.setattr(feature_extraction_tsf_llm, "compute_features", counted_compute)
    report = train(tmp_path, num_train_epochs=1, report_samples=8)
    assert report["before"]["crps"] != report["after"]["crps"]
    rows = pd.read_csv(prices).groupby("ticker").size()
    assert checked == rows.to_dict()
    assert set(computed.values()) == {rows.sum()}
