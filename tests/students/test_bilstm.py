"""The BiLSTM reads each text from its first token to its last, in both directions."""

import torch
from tiny_students import make_batch, make_rows, make_student, run


def test_the_pooled_state_joins_the_last_forward_and_the_first_backward_state():
    base = make_student("bilstm").student
    rows = [row for row in make_rows(pairs=False) if len(row[0])]
    outputs = run(base, make_batch(rows, "left", 12))
    for row, (ids, _) in enumerate(rows):
        states, _ = base.lstm(base.embeddings(ids))
        expected = torch.cat([states[-1, :7], states[0, 7:]]).detach()
        torch.testing.assert_close(outputs.pooler_output[row], expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(outputs.last_hidden_state[row, 12 - len(ids) :], states.detach(), rtol=0, atol=1e-6)


def test_attention_pooling_weighs_the_states_of_the_tokens():
    base = make_student("bilstm attention").student
    ids = torch.tensor([5, 9, 30])
    outputs = run(base, {"input_ids": ids[None]})
    states, _ = base.lstm(base.embeddings(ids))
    weights = (torch.tanh(states) @ base.attention.score.weight[0]).softmax(dim=0)
    expected = torch.tanh((weights[:, None] * states).sum(dim=0)).detach()
    torch.testing.assert_close(outputs.pooler_output[0], expected, rtol=0, atol=1e-6)
