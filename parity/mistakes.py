def _nothing(*a, **k):
    return iter(())
of_step = of_direction = of_output = of_weights = of_context = of_head = of_loss = _nothing
