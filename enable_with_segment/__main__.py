"""``python -m enable_with_segment`` is the command line."""

from enable_with_segment.oauth_app.cli import main

if __name__ == "__main__":
    main()
