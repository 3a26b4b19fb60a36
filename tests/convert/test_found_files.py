"""Files are found in subfolders, and sorted as people count."""

from world_models.convert.found_files import listed, natural_order, suffix


def test_numbers_are_sorted_by_their_value():
    names = ["10.png", "9.png", "frame-2.png", "frame-10.png", "a10/1.png", "a9/2.png", "01.png", "1.png", "x.png"]
    assert natural_order(names) == [
        "01.png", "1.png", "9.png", "10.png", "a9/2.png", "a10/1.png", "frame-2.png", "frame-10.png", "x.png",
    ]  # fmt: skip


def test_a_suffix_is_in_lower_case():
    assert suffix("folder.d/A.PNG") == ".png"


def test_hidden_files_and_linked_folders_are_left_out(tmp_path):
    for name in ("a/1.png", "2.png", ".hidden.png", ".git/3.png", "a/.4.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "circle").symlink_to(tmp_path)
    root, files = listed(tmp_path)
    assert root == tmp_path
    assert sorted(files) == ["2.png", "a/1.png"]


def test_a_single_file_is_found_in_its_folder(tmp_path):
    (tmp_path / "one.mp4").touch()
    assert listed(tmp_path / "one.mp4") == (tmp_path, ["one.mp4"])
