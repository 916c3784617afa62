"""Which tasks have answers of the form that a request asks for."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.task_model import Probabilities, TaskModel
from specs.answers.form import AnswerForm, can_give
from specs.home import OTHER_ASKS
from specs.learnware import Learnware

FORMS_KEPT = 256
"""Forms of answers, as lists of labels, whose fitting tasks are kept."""


class Forms:
    """Tells which tasks have answers of the form that a request asks for. A form is worked out when it is first needed,
    and kept."""

    def __init__(self, learnwares: Sequence[Learnware], tasks: TaskModel) -> None:
        self._learnwares = learnwares
        self._tasks = tasks
        self._fit: dict[AnswerForm, NDArray[np.bool_]] = {}

    def applied(self, form: AnswerForm, found: Probabilities) -> Probabilities:
        """Returns the probabilities when the request wants this form. A task without it is another ask on its material;
        but where lettered options alone tell the form, they are the ask, and the request is of any of the others."""
        fits = self._fit.get(form)
        if fits is None:
            if len(self._fit) >= FORMS_KEPT:
                self._fit.clear()
            fits = self._fit[form] = self._fitting(form)
        tasks, home = np.where(fits, found.tasks, 0.0), found.home.copy()
        if form.by_options:
            left = max(float(tasks.sum() + home.sum()), np.finfo(float).tiny)
            return Probabilities(tasks / left, home / left)
        home[self._tasks.home.index(OTHER_ASKS)] += found.tasks[~fits].sum()
        return Probabilities(tasks, home)

    def _fitting(self, form: AnswerForm) -> NDArray[np.bool_]:
        """Returns for each class whether any of its learnwares can give this form."""
        fits = np.zeros(len(self._tasks.classes), bool)
        for number, one in zip(self._tasks.class_of_learnware, self._learnwares, strict=True):
            if not fits[number]:
                fits[number] = can_give(one.specified.answers, form)
        fits[self._tasks.learnt] = True  # whose answers nobody has described
        return fits
