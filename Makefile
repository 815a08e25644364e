.PHONY: setup test test-all lint docs

setup:  # install the package, its tools and its documentation tools into .venv
	uv sync --all-groups

test:  # fast suite
	uv run pytest

test-all:  # all tests
	uv run pytest --all

lint:  # style, format, import layers and types, without changing files
	uv run ruff check .
	uv run ruff format --check .
	uv run lint-imports
	uv run pyrefly check

docs:  # documentation site in site/
	uv run --group docs mkdocs build --strict
