"""One process that serves a shipped folder, for serving.py: by its own `classifier.py`, or by transformers' pipeline.

    python benchmarks/serving_worker.py runtime|pipeline folder file_name threads max_length

It reads requests from standard input, one JSON a line, and answers each with a line of JSON: `{"answer": text}` with
the label, `{"each": texts}` with the milliseconds of each text alone, `{"all": texts, "batch_size": number}` with the
seconds of all together and their labels. At its head it imports nothing that serving does not need.
"""

import json
import sys
import time


def main():
    way, folder, file_name, threads, max_length = sys.argv[1:]
    load = {"runtime": load_runtime, "pipeline": load_pipeline}[way]
    answer = load(folder, file_name, int(threads), int(max_length))
    for line in sys.stdin:
        request = json.loads(line)
        if "answer" in request:
            reply = answer([request["answer"]], 1)[0]
        elif "each" in request:
            reply = []
            for text in request["each"]:
                start = time.perf_counter()
                answer([text], 1)
                reply.append(1000 * (time.perf_counter() - start))
        else:
            start = time.perf_counter()
            labels = answer(request["all"], request["batch_size"])
            reply = {"seconds": time.perf_counter() - start, "labels": labels}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


def load_runtime(folder, file_name, threads, max_length):
    """Return what labels texts with `classifier.py`, which knows the length from the folder and makes its batches."""
    sys.path.insert(0, folder)
    from classifier import Classifier

    classifier = Classifier.from_pretrained(folder, file_name=file_name, threads=threads)

    def answer(texts, batch_size):
        return [each["label"] for each in classifier(texts)]

    return answer


def load_pipeline(folder, file_name, threads, max_length):
    """Return what labels texts with `transformers.pipeline`, over the same file in onnxruntime."""
    import torch
    from onnxruntime import SessionOptions
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    torch.set_num_threads(threads)
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The code is that of our students, which `ship` laid into the folder.
    model = ORTModelForSequenceClassification.from_pretrained(
        folder, file_name=file_name, session_options=options, trust_remote_code=True
    )
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))

    def answer(texts, batch_size):
        answers = classify(texts, batch_size=batch_size, truncation=True, max_length=max_length)
        return [each["label"] for each in answers]

    return answer


if __name__ == "__main__":
    main()
