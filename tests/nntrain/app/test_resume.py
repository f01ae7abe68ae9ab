from nntrain.app.resume import changed_keys


def test_changed_settings_are_listed_except_those_that_are_free_to_change() -> None:
    before = {
        "lr": 0.1,
        "n_epoch": 3,
        "resume": None,
        "callbacks.progress.beta": 0.9,
        "data.batch_size": 64,
    }
    now = {
        "lr": 0.5,
        "n_epoch": 9,
        "resume": "run",
        "callbacks.progress.beta": 0.98,
        "optimizer.eps": 1,
    }
    assert changed_keys(before, now) == [
        "lr: 0.1 -> 0.5",
        "data.batch_size: 64 -> None",
        "optimizer.eps: None -> 1",
    ]
