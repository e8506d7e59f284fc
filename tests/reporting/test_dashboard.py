from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def test_tensorboard_holds_what_the_run_logged(finished_run):
    events = EventAccumulator(str(finished_run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "val/loss", "val/f1", "train/lr", "train/images_per_second"} <= set(tags["scalars"])
    assert {"val/precision/across", "val/recall/along", "test/accuracy"} <= set(tags["scalars"])
    assert {"val/confusion", "val/mistakes", "best_test/confusion", "best_val/mistakes"} <= set(tags["images"])
    assert "summary/text_summary" in tags["tensors"]
    assert [event.step for event in events.Scalars("val/f1")] == [0, 1]  # epochs, not batches
    plugins = events.summary_metadata
    assert any("hparams" in name for name in plugins)
    assert "custom_scalars__config__" in plugins
