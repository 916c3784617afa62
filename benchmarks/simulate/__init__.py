"""How adapter paging behaves at sizes and on devices where it has not been run."""
