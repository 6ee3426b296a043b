"""Try a model in the browser: a picture, a question or a phrase, and a page of what the model says and looks at.

    python examples/app.py --model runs/visual_question_answering    # what the README's first command saves
    python examples/app.py --model FOLDER --regions STORE            # stored features, by the picture's file name

Any saved model of one image and one text will do, also one that `vilbert convert` wrote. A model of many tasks lets you
choose. Everything stays on this machine. Needs: pip install ".[app]"
"""

import argparse
import html
import os
from pathlib import Path


# Gradio reads it when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr  # noqa: E402
import torch  # noqa: E402
from transformers import AutoProcessor  # noqa: E402

from modeling_vilbert import check_features, explain, open_regions  # noqa: E402
from modeling_vilbert.explanation_page import embedded_picture, explanation_page  # noqa: E402
from modeling_vilbert.extraction import open_image  # noqa: E402
from modeling_vilbert.heads_vilbert import check_task_token  # noqa: E402
from modeling_vilbert.model_commands import check_picture, read_model  # noqa: E402


# Heads that read one image and one text.
HEADS = ("question_answering", "classification", "matching", "grounding")
# The page runs its own script, and has no way to anything outside its frame.
FRAME = (
    '<iframe title="Who looks at what" sandbox="allow-scripts" srcdoc="{}"'
    ' style="width: 100%; height: 80rem; border: 0"></iframe>'
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="a saved model and its processor")
    parser.add_argument("--regions", type=Path, metavar="STORE", help="default: the processor's region_extractor")
    parser.add_argument("--task-token", type=int, metavar="N", help="of a model with task tokens; default: the head's")
    parser.add_argument("--port", type=int, help="default: the first that is free from 7860 on")
    options = parser.parse_args()
    try:
        asked = Asked(options.model, options.regions, options.task_token)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    # Gradio's own theme would fetch its fonts.
    theme = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    build(asked).launch(server_name="127.0.0.1", server_port=options.port, share=False, theme=theme, footer_links=[])


class Asked:
    """A saved model, asked about pictures, with regions of a store or else of the saved processor's extractor."""

    def __init__(self, folder: Path, store: Path | None = None, task_token: int | None = None):
        if not (folder / "config.json").is_file():
            raise ValueError(f"--model {folder} is not the folder of a saved model: it has no config.json.")
        self.model, self.processor = read_model(folder), AutoProcessor.from_pretrained(folder)
        self.store = None if store is None else open_regions(store)
        if self.store is None and self.processor.region_extractor is None:
            raise ValueError(f"The processor in {folder} makes no regions of a picture; give --regions.")
        tasks = self.model.config.tasks if hasattr(self.model, "heads") else {}
        if task_token is not None:
            check_task_token(self.model.config, task_token)
        self.task_token = task_token
        self.tasks = [name for name, row in tasks.items() if row["head"] in HEADS]

    def page(self, picture: str, text: str, task: str | None = None) -> str:
        """What the model says of a picture's file and a text, and what it looks at."""
        pixels, name = open_image(picture), Path(picture).stem
        if self.store is None:
            regions = self.processor.to_regions(pixels)
        elif name in self.store:
            regions = self.store[name]
        else:
            raise ValueError(f"The store of regions has no image {name!r}, as the picture's file is called.")
        check_picture(pixels.size, regions)
        check_features(regions, self.model.config)
        inputs = self.processor(images=regions, text=text, return_tensors="pt")
        if self.task_token is not None:
            inputs["task_ids"] = torch.tensor([self.task_token])
        explanation = explain(self.model, inputs, regions, processor=self.processor, task=task)
        shown = {"image": embedded_picture(pixels), "image_size": pixels.size}
        return explanation_page(explanation.to_dict() | shown)


def build(asked: Asked) -> gr.Blocks:
    def ask(picture: str | None, text: str, task: str | None) -> str:
        if not picture or not text.strip():
            raise gr.Error("Give a picture, and a question or a phrase.")
        try:
            return FRAME.format(html.escape(asked.page(picture, text, task)))
        except ValueError as error:
            raise gr.Error(str(error)) from error

    with gr.Blocks(title="ViLBERT", analytics_enabled=False, fill_width=True) as app:
        with gr.Row():
            picture = gr.Image(
                type="filepath", image_mode=None, label="Picture", sources=["upload", "clipboard"], height=280
            )
            with gr.Column():
                text = gr.Textbox(label="Question or phrase", placeholder="what color is the shape?")
                several = len(asked.tasks) > 0
                task = gr.Dropdown(
                    asked.tasks, label="Task", visible=several, value=asked.tasks[0] if several else None
                )
                button = gr.Button("Ask", variant="primary")
        page = gr.HTML()
        for event in (button.click, text.submit):
            event(ask, [picture, text, task], page, api_name=False)
    return app


if __name__ == "__main__":
    main()
