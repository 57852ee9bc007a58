"""Write Film inside a segment loop and after it, in the real server."""

from __future__ import annotations

from io import BytesIO

import av
import numpy as np

from real_host.client import made_files
from real_host.flights import film_writer, flight, node, of_type, video


def test_a_film_written_in_the_loop_is_the_film_that_decode_film_gives(client):
    # Kept segments of other tests would not run the Write Film in the loop.
    prompt = flight("stand_in_long_flight", LoadImage={"image": "mirage_room.jpg"}, MirageLoopStart={"keep": "off"})
    for one in prompt.values():
        if one["class_type"] == "MirageWriteFilm":
            one["inputs"]["filename_prefix"] = "films/flight"
    memory, vae = [of_type(prompt, "MirageLoopEnd"), 0], [of_type(prompt, "VAELoader"), 0]
    prompt["decoded"] = node("MirageDecodeFilm", memory=memory, vae=vae, crf=16, tile_size=0)
    prompt["saved"] = node(
        "SaveVideo", video=["decoded", 0], filename_prefix="films/decoded", format="auto", codec="auto"
    )

    finished = client.run(prompt)
    outputs = finished.outputs[film_writer(prompt)]
    said = outputs["text"][0]
    assert said == "films/flight_00001.mp4: 65 frames; 3 of 3 parts were there", "the loop has written all of it"
    told = [one.data for one in finished.events if one.kind == "text" and one.data["node_id"] == film_writer(prompt)]
    assert told[-1]["text"] == said
    copies = [one.data for one in finished.events if one.kind == "text" and "parts were there" in one.data["text"]]
    assert len(copies) == 3, "the copies that the loop makes speak on nodes of the canvas too"
    assert {one["node_id"] for one in copies} <= set(prompt)
    (listed,) = made_files(outputs)
    with av.open(BytesIO(client.fetch(listed))) as container:
        assert "prompt" in container.metadata, "the workflow is in the file, as in those of Save Video"
        written = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(written) == 65
    decoded = video(client, finished.outputs["saved"])
    assert all(np.array_equal(one, other) for one, other in zip(written, decoded, strict=True))
