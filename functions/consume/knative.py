"""The command that deployed Knative services name: `python -m functions.consume.knative`."""

from functions.consume.triggers.knative import main

if __name__ == "__main__":
    main()
