"""Scoring engines: what computes the scores of encoded pairs, one padded batch at a time.

    names       no torch: which engines there are, and what each needs
    engine      the protocol, and a scorer on any of them
    graph       the network as other runtimes take it: token ids in, scores out
    pytorch     torch in fp32 or bf16, on a CPU or on CUDA
    prefix      torch for causal networks: what texts start with is run once and kept
    openvino    OpenVINO in fp32 or bf16
    onnx        ONNX Runtime in fp32 or int8
    making      from a name to an engine, made or read

Which one an adapter uses is chosen by `engine_bench` and kept in its manifest; `adapter.load_scorer` makes
it. Nothing is imported here, so that a manifest can be read without torch.
"""
