"""What rows of shuffles may be: t and F, with and without nuisance, of one row and of several."""

from gpustats.engines import Form

FORMS = [
    Form(1, 0, 17, is_f=False),
    Form(3, 0, 15, is_f=True),
    Form(1, 2, 15, is_f=False),
    Form(2, 3, 13, is_f=True),
    Form(1, 0, 17, is_f=True),
    Form(1, 2, 15, is_f=True),
]
