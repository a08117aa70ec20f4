"""``python -m oauth_app`` is the command line."""

from oauth_app.cli import main

if __name__ == "__main__":
    main()
